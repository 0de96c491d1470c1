"""Capture of Python agents in Quarterdeck. One file, Python 3.9 or later, the standard library alone.

    from quarterdeck_capture import Capture

    capture = Capture(agent="desk")
    with capture.run(input=question) as run:
        with run.step("plan"):
            with run.model("gpt-x", {"messages": messages}) as call:
                answer = client.chat(messages)
                call.completed(content=answer.text, usage={"input_tokens": 7, "output_tokens": 3})
        run.output(run.tool("orders.get", {"id": 7}, lambda: get_order(7)))
    capture.close()

Events are copied when they happen and sent by a thread of their own. Under fail="open" (the default) nothing of capture
reaches the program; what cannot be sent is kept in a folder of the user's own and sent by the next process. Under
fail="closed" a call begins only when its intent is on record. Payloads are redacted by the server, not here.
"""

import atexit
import contextlib
import contextvars
import json
import os
import re
import secrets
import tempfile
import threading
import time
import urllib.error
import urllib.request

BATCH_EVENTS = 100
FLUSH_S = 0.1
TIMEOUT_S = 10
BUFFER_EVENTS = 50_000
KEPT = re.compile(r"^(?P<file>(?P<writer>\d+)-\w+\.jsonl)(\.(?P<taker>\d+)(-\w+)?)?$")
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

_place = contextvars.ContextVar("quarterdeck_place", default=None)


class CaptureUnavailable(Exception):
    """The server could not be told of a call under fail="closed", or it has stopped the run."""


def new_run_id():
    """A TypeID over a UUIDv7 (RFC 9562)."""
    value = int(time.time() * 1000) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return "run_" + "".join(ALPHABET[value >> (5 * i) & 31] for i in reversed(range(26)))


class Run:
    """A run: what the program says of its steps and calls becomes events of it."""

    def __init__(self, capture, run_id, joined):
        self.run_id = run_id
        self.state = "running"
        self._capture = capture
        self._joined = joined
        self._prefix = secrets.token_hex(4)
        self._steps = 0
        self._output = None
        self._lock = threading.Lock()

    def output(self, value):
        """What the run comes to; returns it."""
        self._output = value
        return value

    def event(self, type, data):
        """An event of any type, below the step that the caller is in."""
        self._say(type, data, parent=self._parent())

    def step(self, name):
        return self._around("step", {"name": name})

    def agent(self, name):
        return self._around("agent", {"name": name})

    def tool(self, name, args, fn):
        """Calls fn; what went in and what came out is on record."""
        with self._call("tool", {"tool": name, "args": args}) as call:
            result = fn()
            call.completed(result=result)
            return result

    def retrieval(self, retriever, query, fn, **more):
        """Calls fn, which gives documents (dicts), best first."""
        with self._call("retrieval", {"retriever": retriever, "query": query, **more}) as call:
            documents = fn()
            call.completed(documents=[{"rank": i + 1, **one} for i, one in enumerate(documents)])
            return documents

    def model(self, model, request, **more):
        """A context: call `completed` on it with content, tool_calls, usage."""
        return self._call("model", {"model": model, "request": request, **more})

    @contextlib.contextmanager
    def _call(self, kind, data):
        if self._capture.closed_mode and self.state not in ("queued", "running"):
            raise CaptureUnavailable(f"run {self.run_id} is {self.state} on the server")
        step = self._new_step()
        number = self._say(f"{kind}.requested", data, step=step, parent=self._parent())
        if self._capture.closed_mode:
            self._capture.acknowledged(self, number)
        call = Call(self, kind, step)
        token = _place.set((self, step))
        try:
            yield call
            call.completed()
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            _place.reset(token)

    @contextlib.contextmanager
    def _around(self, kind, data):
        step = self._new_step()
        self._say(f"{kind}.started", data, step=step, parent=self._parent())
        token = _place.set((self, step))
        try:
            yield step
            self._say(f"{kind}.ended", {}, step=step)
        except BaseException as error:
            self._say(f"{kind}.ended", {"is_error": True, "code": type(error).__name__, "message": str(error)}, step=step)
            raise
        finally:
            _place.reset(token)

    def _new_step(self):
        with self._lock:
            self._steps += 1
            return f"{self._prefix}-{self._steps}"

    def _parent(self):
        place = _place.get()
        return place[1] if place and place[0] is self else None

    def _say(self, type, data, step=None, parent=None):
        event = {"type": type, "occurred_at": _now(), "data": data}
        if step is not None:
            event["step_id"] = step
        if parent is not None:
            event["parent_step_id"] = parent
        return self._capture.record(self, event)


class Call:
    """A call that has begun; how it ends counts once."""

    def __init__(self, run, kind, step):
        self._run, self._kind, self._step = run, kind, step
        self._begun = time.monotonic()
        self._open = True

    def completed(self, **data):
        self._close("completed", {"content": None, **data} if self._kind == "model" else data)

    def failed(self, error):
        self._close("failed", {"code": type(error).__name__, "message": str(error) or type(error).__name__})

    def _close(self, how, data):
        if not self._open:
            return
        self._open = False
        duration_ms = round((time.monotonic() - self._begun) * 1000, 3)
        self._run._say(f"{self._kind}.{how}", {**data, "duration_ms": duration_ms}, step=self._step)


class Capture:
    """Captures this program. Settings: the arguments, else QUARTERDECK_URL, QUARTERDECK_TOKEN, QUARTERDECK_AGENT."""

    def __init__(self, agent=None, url=None, token=None, fail="open", spill=None, on_problem=None):
        if fail not in ("open", "closed"):
            raise ValueError(f"fail is {fail!r}; it must be 'open' or 'closed'")
        self.agent = agent or os.environ.get("QUARTERDECK_AGENT") or "captured"
        self.url = (url or os.environ.get("QUARTERDECK_URL") or "http://127.0.0.1:7800").rstrip("/")
        self.token = token or os.environ.get("QUARTERDECK_TOKEN")
        self.closed_mode = fail == "closed"
        self.figures = {"recorded": 0, "acknowledged": 0, "spilled": 0, "lost": 0}
        self._on_problem = on_problem or (lambda problem: None)
        self._producer = {"producer_id": f"py-{secrets.token_hex(8)}", "producer_epoch": int(time.time() * 1000)}
        user = os.getuid() if hasattr(os, "getuid") else "user"
        self._spill = spill if spill is not None else os.path.join(tempfile.gettempdir(), f"quarterdeck-{user}", "spill-py")
        self._numbers, self._queue, self._acks = {}, [], {}
        self._condition = threading.Condition()
        self._urgent = self._stopping = self._torn = False
        self._why = None
        joined = os.environ.get("QUARTERDECK_RUN")
        self._joined = Run(self, joined, True) if joined else None
        self._thread = threading.Thread(target=self._work, name="quarterdeck-capture", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @contextlib.contextmanager
    def run(self, input=None, agent=None, labels=None):
        """A run. In a process that `quarterdeck capture` started it is a part of that process's run."""
        if self._joined:
            with self._joined.agent(agent or self.agent):
                yield self._joined
            return
        run = Run(self, new_run_id(), False)
        started = {"agent": agent or self.agent, "input": input}
        run._say("run.started", {**started, "labels": labels} if labels else started)
        token = _place.set((run, None))
        try:
            yield run
            run._say("run.succeeded", {"output": run._output})
        except BaseException as error:
            run._say("run.failed", {"code": type(error).__name__, "message": str(error) or type(error).__name__})
            raise
        finally:
            _place.reset(token)

    def record(self, run, event):
        """Records an event; returns its number in its run. Never raises under fail="open"."""
        with self._condition:
            number = self._numbers[run.run_id] = self._numbers.get(run.run_id, 0) + 1
            self.figures["recorded"] += 1
            if len(self._queue) >= BUFFER_EVENTS:
                self._lose(1, "too many events wait to be sent")
            else:
                # A copy: the program may go on changing what it gave.
                text = json.dumps({**event, "sequence_no": number}, default=str)
                self._queue.append((run, number, text.replace("\\u0000", "\\ufffd")))
            if len(self._queue) >= BATCH_EVENTS:
                self._condition.notify_all()
            return number

    def acknowledged(self, run, number):
        """Waits until an event is on record. Raises CaptureUnavailable when the server cannot be told."""
        with self._condition:
            self._urgent, self._why = True, None
            self._condition.notify_all()
            told = lambda: self._acks.get(run.run_id, 0) >= number or self._why
            self._condition.wait_for(told, TIMEOUT_S * 2)
            if self._acks.get(run.run_id, 0) < number:
                raise CaptureUnavailable(self._why or "the server did not answer in time")
        if run.state not in ("queued", "running"):
            raise CaptureUnavailable(f"run {run.run_id} is {run.state} on the server")

    def flush(self, timeout=5):
        """Sends what was recorded so far, or keeps it."""
        with self._condition:
            self._urgent = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._queue and not self._urgent, timeout)

    def close(self):
        """Sends what was recorded, or keeps it for the next process."""
        if self._stopping:
            return
        self.flush()
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(TIMEOUT_S)
        self._keep(self._take_all())

    def _work(self):
        pause, due, kept = 0, 0, True
        while not self._stopping:
            with self._condition:
                ready = lambda: self._urgent or self._stopping or len(self._queue) >= BATCH_EVENTS
                self._condition.wait_for(ready, FLUSH_S)
                urgent = self._urgent
            batches = self._take_all()
            # What was kept goes first: it is older.
            if kept and (urgent or time.monotonic() >= due):
                kept = not self._resend()
            left = next((i for i, batch in enumerate(batches) if kept or not self._send(batch)), None)
            if left is not None:
                self._keep(batches[left:])
                kept = True
            pause = min(30, pause * 2 or 0.5) if kept else 0
            due = time.monotonic() + pause
            with self._condition:
                self._urgent = False
                self._condition.notify_all()

    def _take_all(self):
        """What is recorded, in batches of one run each."""
        with self._condition:
            queue, self._queue = self._queue, []
        by_run = {}
        for run, number, text in queue:
            by_run.setdefault(run, []).append((number, json.loads(text)))
        return [
            (run, {"run_id": run.run_id, **self._producer, "events": [event for _, event in events[i : i + BATCH_EVENTS]]})
            for run, events in by_run.items()
            for i in range(0, len(events), BATCH_EVENTS)
        ]

    def _send(self, batch):
        """True when a batch is done with, one way or the other."""
        run, body = batch
        body = dict(body)
        run_id = body.pop("run_id")
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(f"{self.url}/api/v1/runs/{run_id}/events", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            why = f"the server answered {error.code}: {error.read(300)!r}"
            if error.code in (401, 403, 408, 425, 429) or error.code >= 500:
                return self._later(why)
            self._lose(len(body["events"]), why)
            return True
        except Exception as error:  # Whatever the network may do.
            return self._later(f"{self.url} does not answer: {error}")
        for item in answer["items"]:
            known = item["status"] != "rejected"
            self.figures["acknowledged" if known else "lost"] += 1
            if not known:
                self._problem(f"{item['error']['code']}: {item['error']['message']}")
        with self._condition:
            if run is not None:
                run.state = answer["state"] or run.state
                self._acks[run_id] = body["events"][-1]["sequence_no"]
            self._condition.notify_all()
        return True

    def _later(self, why):
        with self._condition:
            self._why = why
            self._condition.notify_all()
        self._problem(why)
        return False

    def _keep(self, batches):
        """Puts batches where the next process finds them; False when that failed."""
        count = sum(len(body["events"]) for _, body in batches)
        if not batches:
            return True
        try:
            self._own()
            with open(os.path.join(self._spill, f"{os.getpid()}-{self._producer['producer_id'][3:]}.jsonl"), "a") as file:
                # The last line may be torn: the disk was full while it was written.
                file.write("\n" if self._torn else "")
                for _, body in batches:
                    file.write(json.dumps(body) + "\n")
            self._torn = False
            self.figures["spilled"] += count
            return True
        except OSError as error:
            self._torn = True
            self._lose(count, f"they could be neither sent nor kept: {error}")
            return False

    def _own(self):
        """Others could read what is kept, or have their own words sent in our name: the folder must be ours alone."""
        os.makedirs(self._spill, mode=0o700, exist_ok=True)
        if hasattr(os, "getuid"):
            there = os.lstat(self._spill)
            if there.st_uid != os.getuid() or there.st_mode & 0o077:
                raise OSError(f"{self._spill} can be reached by other users; make it yours alone (chmod 700)")

    def _resend(self):
        """Sends what this process or ones that are gone have kept; True when nothing is left. The server knows each event."""
        try:
            names = sorted(os.listdir(self._spill))
            if names:
                self._own()
        except FileNotFoundError:
            return True
        except OSError as error:
            # What is in there is none of ours to send.
            self._problem(str(error))
            return True
        for name in names:
            kept = KEPT.match(name)
            # The second number is the process that took the file over to send it.
            owner = int(kept["taker"] or kept["writer"]) if kept else os.getpid()
            if not kept or (owner != os.getpid() and _alive(owner)):
                continue
            mine = os.path.join(self._spill, f"{kept['file']}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                os.rename(os.path.join(self._spill, name), mine)
                bodies = self._bodies(mine)
                left = next((i for i, batch in enumerate(bodies) if not self._send(batch)), None)
                if left is None or self._keep(bodies[left:]):
                    os.remove(mine)
                if left is not None:
                    return False
            except OSError as error:
                self._problem(f"{name}: {error}")
        return True

    def _bodies(self, path):
        bodies = []
        with open(path) as file:
            for line in file:
                try:
                    if line.strip():
                        bodies.append((None, json.loads(line)))
                except ValueError:
                    self._problem(f"a line of {path} was cut off; its events are lost")
        return bodies

    def _lose(self, count, why):
        self.figures["lost"] += count
        self._problem(f"{count} events are lost: {why}")

    def _problem(self, text):
        with contextlib.suppress(Exception):
            self._on_problem(text)


def _alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False
    except OSError:
        return True


def _now():
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9 // 1000:06d}Z"
