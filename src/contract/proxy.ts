// The proxy's surface: where unmodified clients send their calls, and how calls are attributed to runs.
import { Type, type Static } from "typebox";
import { Name } from "./ids.ts";

/** In a call's `_meta`: how long its client can wait for an outcome, in milliseconds. */
export const MCP_WAIT_META = "quarterdeck/wait_ms";
/** On requests of `quarterdeck mcp`: its client speaks over stdio, and repeats no arguments in headers. */
export const MCP_STDIO_HEADER = "quarterdeck-mcp-stdio";
/** Names the agent that a call belongs to. */
export const AGENT_HEADER = "quarterdeck-agent";
/** How long a call may wait for the approval of a person, in milliseconds. */
export const WAIT_HEADER = "quarterdeck-wait-ms";
/** Calls of one session are one run. */
export const SESSION_HEADER = "quarterdeck-session";

export const StartCapture = Type.Object(
  {
    agent: Type.Optional(Name),
    env: Type.Optional(Name),
    labels: Type.Optional(Type.Record(Type.String({ maxLength: 128 }), Type.String({ maxLength: 512 }))),
    replay_of: Type.Optional(
      Type.String({ maxLength: 64, description: "Answers the calls from this run's recording; no call leaves." }),
    ),
  },
  { additionalProperties: false },
);
export type StartCapture = Static<typeof StartCapture>;

/** A call of a program whose run is replayed: what was recorded of it is the answer. */
export const ReplayedCall = Type.Object(
  {
    kind: Type.Union([Type.Literal("model"), Type.Literal("tool"), Type.Literal("retrieval")]),
    api: Type.Optional(Type.String({ maxLength: 64 })),
    model: Type.Optional(Type.String({ maxLength: 256 })),
    request: Type.Optional(Type.Unknown()),
    tool: Type.Optional(Type.String({ maxLength: 256 })),
    args: Type.Optional(Type.Object({})),
    retriever: Type.Optional(Type.String({ maxLength: 256 })),
    query: Type.Optional(Type.Unknown()),
    top_k: Type.Optional(Type.Integer({ minimum: 0 })),
    filters: Type.Optional(Type.Unknown()),
    optional: Type.Optional(
      Type.Boolean({
        description: "Where the recording has no such tool at all, `ended` is `none` and the program asks by itself.",
      }),
    ),
  },
  { additionalProperties: false },
);
export type ReplayedCall = Static<typeof ReplayedCall>;

export const EndCapture = Type.Object(
  { exit_code: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })) },
  { additionalProperties: false },
);
