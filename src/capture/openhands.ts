// OpenHands event streams: actions of the user and the agent, observations of the environment; an observation names the action
// that caused it. Old exports have neither ids nor sources; there an observation answers the action before it.
import { isObject } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import { textIn } from "./import-text.ts";
import type { RecordedRun } from "./import.ts";

/** Actions that say something instead of doing it. */
const SAYS = new Set(["message", "finish", "system"]);

function spoken(event: JsonObject): JsonObject {
  const args = isObject(event["args"]) ? event["args"] : event;
  const system = event["action"] === "system";
  const bySystem = system || (textIn(event, "source") === "agent" && event["action"] === undefined);
  const role = bySystem ? "system" : textIn(event, "source") === "user" ? "user" : "assistant";
  const content = textIn(args, "content") || textIn(args, "final_thought") || textIn(event, "message");
  return { role, content, ...(event["timestamp"] === undefined ? {} : { timestamp: event["timestamp"] }) };
}

function acted(event: JsonObject, id: string): JsonObject {
  const args: JsonObject = isObject(event["args"])
    ? event["args"]
    : Object.fromEntries(
        Object.entries(event).filter(
          ([key]) => !["action", "thought", "timestamp", "id", "source", "message"].includes(key),
        ),
      );
  const { thought, ...rest } = args;
  const call = { id, type: "function", function: { name: textIn(event, "action"), arguments: JSON.stringify(rest) } };
  const content = typeof thought === "string" && thought !== "" ? thought : textIn(event, "thought") || null;
  const at = event["timestamp"] === undefined ? {} : { timestamp: event["timestamp"] };
  return { role: "assistant", content, tool_calls: [call], ...at };
}

/** One stream; null when the value is none. */
export function openHandsRun(value: JsonObject | readonly unknown[], key: string): RecordedRun | null {
  const object = Array.isArray(value) ? null : (value as JsonObject);
  const list = object ? object["history"] : (value as readonly unknown[]);
  if (!Array.isArray(list)) return null;
  const events = (list as unknown[]).flat().filter((one): one is JsonObject => isObject(one));
  if (!events.some((event) => "action" in event || "observation" in event)) return null;
  const messages: JsonObject[] = [];
  let last = "";
  for (const [index, event] of events.entries()) {
    const id = `event_${String(event["id"] ?? index)}`;
    if ("observation" in event) {
      const cause = event["cause"] === undefined ? last : `event_${String(event["cause"])}`;
      messages.push({ role: "tool", tool_call_id: cause, content: event["content"] ?? event["message"] ?? null });
    } else if (SAYS.has(textIn(event, "action")) || event["action"] === undefined) messages.push(spoken(event));
    else {
      last = id;
      messages.push(acted(event, id));
    }
  }
  const wrong = object && typeof object["error"] === "string" && object["error"] !== "";
  return {
    key: (object && textIn(object, "instance_id")) || key,
    model: "unknown",
    source: "openhands",
    fidelity: "messages",
    messages,
    outcome: { state: wrong ? "failed" : "succeeded", output: object?.["git_patch"] ?? lastSaid(messages) },
  };
}

function lastSaid(messages: readonly JsonObject[]): string | null {
  const said = messages.findLast(
    (message) => message["role"] === "assistant" && typeof message["content"] === "string",
  );
  return (said?.["content"] ?? null) as string | null;
}
