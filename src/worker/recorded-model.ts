// A model whose answers come from a recording: for examples, tests and driven replays. It says what it is: provider
// `recorded`, and the recording names where the answers come from. The answer to a conversation is chosen by how many
// times the assistant has spoken in it, so a retry or a restart gets the same one.
import { Type } from "typebox";
import { Compile } from "typebox/compile";
import type { JobOutcome, ModelJob, ToolCall, Usage } from "../contract/jobs.ts";
import type { Json } from "../kit/json.ts";
import { inputTokensBound } from "../core/budget.ts";
import { JobError } from "./pool.ts";

export const Recording = Type.Object(
  {
    model: Type.String(),
    note: Type.String(),
    turns: Type.Array(
      Type.Object(
        {
          content: Type.Union([Type.String(), Type.Null()]),
          tool_calls: Type.Optional(
            Type.Array(
              Type.Object({
                id: Type.Optional(Type.String()),
                name: Type.String(),
                arguments: Type.Union([Type.String(), Type.Object({})]),
              }),
            ),
          ),
          usage: Type.Optional(Type.Object({ input_tokens: Type.Integer(), output_tokens: Type.Integer() })),
        },
        { additionalProperties: false },
      ),
    ),
  },
  { additionalProperties: false },
);

export interface RecordedTurn {
  readonly content: string | null;
  readonly tool_calls?: readonly { id?: string; name: string; arguments: string | Record<string, unknown> }[];
  readonly usage?: Usage;
}

export interface RecordedAnswers {
  readonly model: string;
  readonly turns: readonly RecordedTurn[];
}

const validator = Compile(Recording);

/** Reads a recording. Throws JobError naming the first fault. */
export function readRecording(value: Json): RecordedAnswers {
  if (!validator.Check(value)) {
    const [first] = validator.Errors(value);
    const where = first ? `${first.instancePath || "/"} ${first.message}` : "not a recording";
    throw new JobError({
      class: "permanent",
      code: "recording_invalid",
      message: `The recording is not valid: ${where}`,
    });
  }
  return value as unknown as RecordedAnswers;
}

const BYTES_PER_TOKEN = 4;

/** Plausible usage where a recording has none: four bytes a token, as a rule of thumb; labelled by provider `recorded`. */
function usageOf(job: ModelJob, turn: RecordedTurn, calls: readonly ToolCall[]): Usage {
  if (turn.usage) return turn.usage;
  const output =
    (turn.content ?? "").length + calls.reduce((sum, call) => sum + call.arguments.length + call.name.length, 0);
  return {
    input_tokens: Math.ceil(inputTokensBound(job.messages, 0) / BYTES_PER_TOKEN),
    output_tokens: Math.max(1, Math.ceil(output / BYTES_PER_TOKEN)),
  };
}

export function recordedAnswer(job: ModelJob, recording: RecordedAnswers): JobOutcome {
  const index = job.messages.filter((message) => message.role === "assistant").length;
  const turn = recording.turns[index];
  if (!turn) {
    const message = `The recording has ${recording.turns.length} answers; answer ${index + 1} was asked for.`;
    throw new JobError({ class: "permanent", code: "recording_exhausted", message });
  }
  const tool_calls: ToolCall[] = (turn.tool_calls ?? []).map((call, i) => ({
    id: call.id ?? `call_${index}_${i}`,
    name: call.name,
    arguments: typeof call.arguments === "string" ? call.arguments : JSON.stringify(call.arguments),
  }));
  return {
    ok: true,
    kind: "model",
    content: turn.content,
    tool_calls,
    finish_reason: tool_calls.length > 0 ? "tool_calls" : "stop",
    usage: usageOf(job, turn, tool_calls),
    response_model: recording.model,
  };
}
