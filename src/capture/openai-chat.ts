// OpenAI chat messages to canonical events: each assistant message is a model step, each tool call a tool step, whose
// result is the tool message with its id. Texts and argument strings are kept byte for byte.
import type { Json, JsonObject } from "../kit/json.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { Actor, EventDraft } from "../contract/events.ts";
import { LIMITS } from "../contract/limits.ts";
import type { RecordedRun } from "./import.ts";

const IMPORTER: Actor = { id: "import", kind: "importer" };

function parsedArguments(text: string): JsonObject {
  try {
    const value = parseJson(text === "" ? "{}" : text, LIMITS.json_depth_max);
    return isObject(value) ? value : {};
  } catch {
    return {};
  }
}

class Converter {
  readonly drafts: EventDraft[] = [];
  step = 0;
  /** Calls without a result yet, in order. */
  private readonly open: { id: string; name: string; step: number }[] = [];
  private sawUser = false;

  convert(message: JsonObject): void {
    const content = message["content"] ?? null;
    switch (message["role"]) {
      case "user":
        // The first user message is the input that started the run.
        if (this.sawUser)
          this.drafts.push({ type: "human.input", actor: { id: "recorded-user", kind: "user" }, data: { content } });
        this.sawUser = true;
        return;
      case "assistant":
        return this.assistant(message, content);
      case "tool":
        return this.tool(message, content);
      default:
        // System messages stand in run.started.
        return;
    }
  }

  private assistant(message: JsonObject, content: Json): void {
    const raw = Array.isArray(message["tool_calls"]) ? (message["tool_calls"] as JsonObject[]) : [];
    const calls = raw.map((call, index) => {
      const fn: JsonObject = isObject(call["function"]) ? call["function"] : {};
      return {
        arguments: String(fn["arguments"] ?? ""),
        id: String(call["id"] ?? `call_${this.step}_${index}`),
        name: String(fn["name"] ?? ""),
      };
    });
    this.step += 1;
    const step = this.step;
    this.drafts.push({ type: "model.requested", step, data: { model: "recorded" } });
    this.drafts.push({ type: "model.completed", step, data: { content, tool_calls: calls } });
    for (const call of calls) {
      this.step += 1;
      this.drafts.push({
        type: "tool.requested",
        step: this.step,
        call: call.id,
        data: { args: parsedArguments(call.arguments), tool: call.name },
      });
      this.open.push({ id: call.id, name: call.name, step: this.step });
    }
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
    this.drafts.push({ type: "tool.completed", step: call.step, call: call.id, data: { result: content } });
  }
}

/** Events of a recorded run, from run.started to its end. */
export function eventsOf(
  run: RecordedRun,
  caller: { project: string; principal: string },
): { drafts: EventDraft[]; steps: number } {
  const system = run.messages.find((message) => message["role"] === "system");
  const input = run.messages.find((message) => message["role"] === "user");
  const converter = new Converter();
  const started: JsonObject = {
    env: "dev",
    fidelity: run.fidelity,
    input: input?.["content"] ?? null,
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
