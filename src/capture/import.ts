// Importers: recorded runs of other systems become captured runs, in the same schema and under the same chain as our own.
// What a source does not say is not invented: `run.started` names the source, the fidelity and what is missing.
import type { Clock } from "../kit/clock.ts";
import { isObject, parseJson } from "../kit/json.ts";
import { atOnce } from "../kit/turn.ts";
import type { Turn } from "../kit/turn.ts";
import type { Json, JsonObject } from "../kit/json.ts";
import type { Random } from "../kit/random.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import type { EventDraft, TerminalState } from "../contract/events.ts";
import type { AppendRow, RunSummary } from "../contract/journal.ts";
import { encodingRows } from "../core/chain.ts";
import type { Quarantine } from "./quarantine.ts";
import { Redactor } from "./redact.ts";
import type { EventNames, Keep } from "./redact.ts";
import { eventsOf } from "./openai-chat.ts";
import { displayMessages } from "./tau-bench.ts";
import { anthropicRun } from "./anthropic-transcript.ts";
import { atifRun } from "./atif.ts";
import { mcpSessionRun } from "./mcp-session.ts";
import { langfuseRun } from "./langfuse.ts";
import { openHandsRun } from "./openhands.ts";
import { sweAgentRun } from "./swe-agent.ts";
import { tau2Runs } from "./tau2.ts";

export interface ImportSeams {
  /** An id for a run that is recorded in this process. */
  readonly newRunId: () => string;
  readonly clock: Clock;
  readonly random: Random;
}

export interface RecordedRun {
  readonly key: string;
  readonly model: string;
  readonly source: string;
  /** `messages`: the conversation is exact, wire bytes and times are not there. `display`: only what was shown. `span`: calls with what went in and out, their order by time. */
  readonly fidelity: "messages" | "display" | "span";
  readonly messages: readonly JsonObject[];
  readonly outcome: { state: TerminalState; output: Json; reward?: number };
}

export interface CapturedRun {
  readonly key: string;
  readonly fidelity: string;
  readonly rows: readonly AppendRow[];
  readonly summary: RunSummary;
}

/** A document of a format as runs; null when it is none of that format. */
const READERS: Record<string, (value: Json, key: string) => RecordedRun[] | null> = {
  tau2: (value) => (isObject(value) ? tau2Runs(value) : null),
  "swe-agent": (value, key) => one(isObject(value) ? sweAgentRun(value, key) : null),
  openhands: (value, key) => one(isObject(value) || Array.isArray(value) ? openHandsRun(value, key) : null),
  langfuse: (value, key) => one(isObject(value) ? langfuseRun(value, key) : null),
  "anthropic-messages": (value, key) => one(isObject(value) ? anthropicRun(value, key) : null),
  atif: (value, key) => one(isObject(value) ? atifRun(value, key) : null),
};
const one = (run: RecordedRun | null): RecordedRun[] | null => run && [run];

/** Formats in which all lines of a file are one run. */
const SESSIONS: Record<string, (lines: readonly Json[], key: string) => RecordedRun | null> = {
  "mcp-session": mcpSessionRun,
};

export const IMPORT_FORMATS = ["tau-bench", "openai-chat", ...Object.keys(READERS), ...Object.keys(SESSIONS)];

function fault(line: number, message: string): AppError {
  return new AppError("IMPORT_INVALID", `line ${line}: ${message}`, { errors: [{ pointer: "", line, message }] });
}

/** Reads recorded runs, one JSON document a line (or one document for openai-chat). Throws IMPORT_INVALID with the line. */
export function readRecorded(format: string, text: string): RecordedRun[] {
  if (!(IMPORT_FORMATS as readonly string[]).includes(format)) {
    throw new AppError("IMPORT_INVALID", `There is no format ${format}; there are ${IMPORT_FORMATS.join(", ")}`);
  }
  const session = SESSIONS[format];
  if (session) {
    const run = session(linesOf(text), "session");
    if (!run) throw fault(1, `this is no document of format ${format}`);
    return [run];
  }
  // One document, or one a line.
  const whole = format !== "tau-bench" && !/^\s*\{.*\}\s*\n\s*\{/.test(text);
  const lines = whole ? [text] : text.split("\n");
  const runs: RecordedRun[] = [];
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "") continue;
    let value: Json;
    try {
      value = parseJson(line);
    } catch (error) {
      throw fault(index + 1, messageOf(error));
    }
    runs.push(...recordedIn(format, value, index + 1));
  }
  if (runs.length === 0) throw fault(1, "there are no runs in the file");
  return runs;
}

function linesOf(text: string): Json[] {
  return text.split("\n").flatMap((line, index) => {
    if (line.trim() === "") return [];
    try {
      return [parseJson(line)];
    } catch (error) {
      throw fault(index + 1, messageOf(error));
    }
  });
}

function recordedIn(format: string, value: Json, line: number): RecordedRun[] {
  const reader = READERS[format];
  if (!reader) return [recorded(format, value, line)];
  const runs = reader(value, `line-${line}`);
  if (!runs) throw fault(line, `this is no document of format ${format}`);
  return runs;
}

function recorded(format: string, value: Json, line: number): RecordedRun {
  const object: JsonObject = isObject(value) ? value : { messages: value };
  const text = (key: string, otherwise: string) => (typeof object[key] === "string" ? object[key] : otherwise);
  if (typeof object["messages_display"] === "string") {
    const messages = displayMessages(object["messages_display"]);
    return {
      key: `line-${line}`,
      model: "unknown",
      source: format,
      fidelity: "display",
      messages,
      outcome: { state: "succeeded", output: lastText(messages) },
    };
  }
  const messages = object["traj"] ?? object["messages"];
  if (
    !Array.isArray(messages) ||
    messages.length === 0 ||
    !messages.every((message) => isObject(message) && typeof message["role"] === "string")
  ) {
    throw fault(line, "expected `traj` or `messages`: a list of chat messages, each with a role");
  }
  const list = messages as JsonObject[];
  const reward = object["reward"];
  return {
    key: text("run_key", `line-${line}`),
    model: text("model", "unknown"),
    source: format,
    fidelity: "messages",
    messages: list,
    outcome: { state: "succeeded", output: lastText(list), ...(typeof reward === "number" ? { reward } : {}) },
  };
}

function lastText(messages: readonly JsonObject[]): Json {
  const said = messages.findLast(
    (message) => message["role"] === "assistant" && typeof message["content"] === "string",
  );
  return said?.["content"] ?? null;
}

/** The names that the recording gave; its steps are numbers. */
function namesOf({ call, actor }: EventDraft): Pick<EventNames, "call" | "actor"> {
  return { ...(call === undefined ? {} : { call }), ...(actor === undefined ? {} : { actor }) };
}

/** Turns recorded runs into rows of captured runs. Without a quarantine what cannot be looked at is dropped. */
export async function importRecorded(options: {
  format: string;
  text: string;
  caller: { tenant_id: string; project: string; principal: string };
  seams: ImportSeams;
  redactor?: Redactor;
  quarantine?: Quarantine;
  /** Absent where nobody waits for anything else. */
  turn?: Turn;
}): Promise<CapturedRun[]> {
  const { caller, seams, quarantine, turn, redactor = new Redactor("secrets") } = options;
  const captured: CapturedRun[] = [];
  for (const run of readRecorded(options.format, options.text)) {
    const run_id = seams.newRunId();
    const { drafts, steps } = eventsOf(run, caller);
    const keep: Keep = async (payload) =>
      quarantine ? quarantine.keep({ tenant_id: caller.tenant_id, run_id }, payload) : payload;
    const clean: EventDraft[] = [];
    for (const draft of drafts) {
      const data = await redactor.data(draft.data, draft.type, keep);
      clean.push({ ...draft, ...redactor.names(namesOf(draft)), data });
      const pause = turn?.pause();
      if (pause) await pause;
    }
    const at_us = seams.clock.now_us();
    const encoding = encodingRows({ tenant_id: caller.tenant_id, run_id }, clean, at_us);
    const rows = turn ? await turn.pieces(encoding) : atOnce(encoding);
    captured.push(capture(run, { run_id, rows, steps, caller, at_us }));
  }
  return captured;
}

function capture(
  run: RecordedRun,
  given: {
    run_id: string;
    rows: readonly AppendRow[];
    steps: number;
    caller: { tenant_id: string; project: string; principal: string };
    at_us: number;
  },
): CapturedRun {
  const { run_id, rows, steps, caller, at_us } = given;
  const summary: RunSummary = {
    tenant_id: caller.tenant_id,
    project_id: caller.project,
    run_id,
    kind: "captured",
    target: `${run.source}:${run.key}`,
    env: "dev",
    state: run.outcome.state,
    reason: null,
    requester: caller.principal,
    created_at_us: at_us,
    updated_at_us: at_us,
    steps,
    cost_micro_usd: 0,
    tokens: 0,
    retry_of: null,
    source_run_id: null,
    external_id: null,
    sealed: false,
  };
  return { key: run.key, fidelity: run.fidelity, rows, summary };
}
