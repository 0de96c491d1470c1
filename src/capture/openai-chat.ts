// OpenAI chat messages to canonical events: each assistant message is a model step, each tool call a tool step, whose
// result is the tool message with its id. Texts and argument strings are kept byte for byte.
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Actor, EventDraft } from "../contract/events.ts";
import { LIMITS } from "../contract/limits.ts";
import type { RecordedRun } from "./import.ts";

const IMPORTER: Actor = { id: "import", kind: "importer" };
const USER: Actor = { id: "recorded-user", kind: "user" };

/** When it happened, where the source says so. */
function when(message: JsonObject): { occurred?: number } {
  const ms = typeof message["timestamp"] === "string" ? Date.parse(message["timestamp"]) : NaN;
  return Number.isNaN(ms) ? {} : { occurred: ms * 1000 };
}

function parsedArguments(text: string): JsonObject {
  try {
    const value = parseJson(text === "" ? "{}" : text, LIMITS.json_depth_max);
    return isObject(value) ? value : {};
  } catch {
    return {};
  }
}

function callsOf(message: JsonObject, before: number): { arguments: string; id: string; name: string }[] {
  const raw = Array.isArray(message["tool_calls"]) ? (message["tool_calls"] as JsonObject[]) : [];
  return raw.map((call, index) => {
    const fn: JsonObject = isObject(call["function"]) ? call["function"] : {};
    return {
      arguments: String(fn["arguments"] ?? ""),
      id: String(call["id"] ?? `call_${before}_${index}`),
      name: String(fn["name"] ?? ""),
    };
  });
}

class Converter {
  readonly drafts: EventDraft[] = [];
  step = 0;
  /** Calls without a result yet, in order. */
  private readonly open: { id: string; name: string; step: number }[] = [];
  private begun = false;

  convert(message: JsonObject): void {
    const content = message["content"] ?? null;
    switch (message["role"]) {
      case "user":
        // What the user said first is the input that started the run, unless the assistant spoke before.
        if (this.begun && content !== null)
          this.drafts.push({ type: "human.input", actor: USER, data: { content }, ...when(message) });
        this.begun = true;
        return this.calls(message, USER);
      case "assistant":
        return this.assistant(message, content);
      case "tool":
        return this.tool(message, content);
      case "call":
        return this.called(message, content);
      default:
        // System messages stand in run.started.
        return;
    }
  }

  private assistant(message: JsonObject, content: Json): void {
    this.begun = true;
    this.step += 1;
    const step = this.step;
    const model = typeof message["model"] === "string" ? message["model"] : "recorded";
    this.drafts.push({ type: "model.requested", step, data: { model } });
    const data: JsonObject = { content };
    if (typeof message["cost_usd"] === "number") data["cost_micro_usd"] = Math.round(message["cost_usd"] * 1e6);
    data["tool_calls"] = callsOf(message, step - 1);
    if (isObject(message["usage"])) data["usage"] = message["usage"];
    this.drafts.push({ type: "model.completed", step, data, ...when(message) });
    this.calls(message);
  }

  /** The tools that a message calls; simulated users have tools too. */
  private calls(message: JsonObject, actor?: Actor): void {
    const by = actor ? { actor } : {};
    for (const call of callsOf(message, this.step - 1)) {
      this.step += 1;
      const { arguments: args, id, name } = call;
      const data = { args: parsedArguments(args), tool: name };
      this.drafts.push({ type: "tool.requested", step: this.step, call: id, data, ...by, ...when(message) });
      this.open.push({ id, name, step: this.step });
    }
  }

  /** A call that was recorded with its result. */
  private called(message: JsonObject, content: Json): void {
    this.begun = true;
    this.step += 1;
    const { step } = this;
    const args: JsonObject = isObject(message["args"]) ? message["args"] : {};
    const data: JsonObject = message["is_error"] === true ? { is_error: true, result: content } : { result: content };
    this.drafts.push({ type: "tool.requested", step, data: { args, tool: String(message["name"]) }, ...when(message) });
    this.drafts.push({ type: "tool.completed", step, data, ...when(message) });
  }

  private tool(message: JsonObject, content: Json): void {
    const id = message["tool_call_id"];
    const at = Math.max(
      0,
      this.open.findIndex((call) => id === undefined || call.id === id),
    );
    const [call] = this.open.splice(at, 1);
    if (!call) {
      this.drafts.push({ type: "journal.import_note", data: { note: "a tool message without a call", role: "tool" } });
      return;
    }
    const data: JsonObject = message["is_error"] === true ? { is_error: true, result: content } : { result: content };
    this.drafts.push({ type: "tool.completed", step: call.step, call: call.id, data, ...when(message) });
  }
}

/** Events of a recorded run, from run.started to its end. */
export function eventsOf(
  run: RecordedRun,
  caller: { project: string; principal: string },
): { drafts: EventDraft[]; steps: number } {
  const system = run.messages.find((message) => message["role"] === "system");
  const [input] = run.messages.filter((message) => message["role"] === "user" || message["role"] === "assistant");
  const converter = new Converter();
  const started: JsonObject = {
    env: "dev",
    fidelity: run.fidelity,
    input: input?.["role"] === "user" ? (input["content"] ?? null) : null,
    kind: "captured",
    model: run.model,
    project: caller.project,
    requester: caller.principal,
    source: { format: run.source, key: run.key },
    target: { kind: "captured", name: run.key, version: 1 },
  };
  if (system) started["instructions"] = system["content"] ?? null;
  converter.drafts.push({ type: "run.started", actor: IMPORTER, data: started });
  for (const message of run.messages) converter.convert(message);
  const ended: JsonObject = { output: run.outcome.output };
  if (run.outcome.reward !== undefined) ended["reward"] = run.outcome.reward;
  converter.drafts.push({ type: `run.${run.outcome.state}`, actor: IMPORTER, data: ended });
  return { drafts: converter.drafts, steps: converter.step };
}
