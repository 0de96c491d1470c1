"""A Python agent that captures itself. argv: what to do, and the folder where events are kept."""
import asyncio
import contextvars
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../sdk/python"))
from quarterdeck_capture import Capture, CaptureUnavailable  # noqa: E402

what, spill = sys.argv[1:3]
problems = []
capture = Capture(agent="snake", spill=spill, fail="closed" if what == "closed" else "open", on_problem=problems.append)


async def branch(run, name):
    with run.step(name):
        await asyncio.sleep(0.01)
        with run.model("m-1", {"messages": [{"role": "user", "content": name}]}) as call:
            await asyncio.sleep(0.01)
            call.completed(content=f"said {name}", usage={"input_tokens": 3, "output_tokens": 2})
        run.tool(f"tool.{name}", {"n": 1}, lambda: {"by": name})


def whole():
    with capture.run(input="go", labels={"team": "a"}) as run:

        async def both():
            await asyncio.gather(branch(run, "left"), branch(run, "right"))

        asyncio.run(both())
        with ThreadPoolExecutor(4) as pool, run.step("threads"):
            contexts = [contextvars.copy_context() for _ in range(20)]
            list(pool.map(lambda i: contexts[i].run(run.tool, "thread", {"i": i}, lambda: i), range(20)))
        run.retrieval("docs", "where", lambda: [{"id": "d1", "score": 0.5}], top_k=1)
        try:
            run.tool("broken", {}, lambda: 1 / 0)
        except ZeroDivisionError as error:
            run.event("evaluation.recorded", {"name": "caught", "label": str(error)})
        run.output("done")
        print(run.run_id)


def closed():
    made = []
    try:
        with capture.run() as run:
            run.tool("t", {}, lambda: made.append(1))
    except CaptureUnavailable as error:
        print(json.dumps({"refused": str(error), "made": len(made)}))


{"whole": whole, "closed": closed, "nothing": lambda: None}[what]()
capture.close()
print(json.dumps({"figures": capture.figures, "problems": problems[:3]}))
