// A fetch that captures calls of model APIs (OpenAI Chat Completions and Responses, Anthropic Messages) as they go over the
// wire: every client that takes a fetch is captured by it, with streams, retries and helpers as they are. What is recorded is
// what the proxy would have recorded, so that the run can be replayed against the proxy.
import { isObject } from "../../kit/json.ts";
import type { Json, JsonObject } from "../../kit/json.ts";
import { PROXY_PREFIX } from "../../contract/paths.ts";
import { passedOnly } from "../../contract/wire/headers.ts";
import { anthropicMessages } from "../../contract/wire/anthropic-messages.ts";
import { anthropicCountTokens } from "../../contract/wire/anthropic-count-tokens.ts";
import { openaiEmbeddings } from "../../contract/wire/openai-embeddings.ts";
import { openaiChat } from "../../contract/wire/openai-chat.ts";
import { openaiResponses } from "../../contract/wire/openai-responses.ts";
import { EventSplitter } from "../../contract/wire/wire.ts";
import type { WireAnswer, WireApi } from "../../contract/wire/wire.ts";
import { observeStream } from "./observe.ts";
import type { CaptureRun, OpenCall } from "./run.ts";
import { isProxied } from "./settings.ts";
import type { Settings } from "./settings.ts";

export type Fetch = typeof fetch;

const APIS: readonly WireApi[] = [
  openaiChat,
  openaiResponses,
  openaiEmbeddings,
  anthropicMessages,
  anthropicCountTokens,
];
/** Where the proxy answers for each. */
const PROXY_PATHS: Readonly<Record<WireApi["name"], string>> = {
  "openai.chat": "/openai/v1/chat/completions",
  "openai.responses": "/openai/v1/responses",
  "openai.embeddings": "/openai/v1/embeddings",
  "anthropic.messages": "/anthropic/v1/messages",
  "anthropic.count_tokens": "/anthropic/v1/messages/count_tokens",
};
const ERROR_CHARS = 1_000;

/** Wraps a fetch. `run` gives the run that a call belongs to. */
export function capturingFetch(inner: Fetch, settings: Settings, run: () => CaptureRun): Fetch {
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    const api = APIS.find((one) => pathOf(url).endsWith(one.path));
    const body = api && bodyOf(init);
    if (!api || !body || !settings.enabled || isProxied(url, settings)) return inner(input, init);
    if (settings.replay)
      return inner(...redirected(settings, run(), api, { ...init, body: shownBody(run(), api, body) }));
    const call = await run().open("model", { api: api.name, model: String(body["model"] ?? "unknown"), request: body });
    const signal = init?.signal ?? (input instanceof Request ? input.signal : null);
    const isGivenUp = () => signal?.aborted === true;
    let response: Response;
    try {
      response = await inner(input, init);
    } catch (error) {
      // Nobody answered, or the program did not wait for it.
      call.failed(error, isGivenUp() ? { broken_by: "client" } : {});
      throw error;
    }
    return observed(response, { api, body, call, isGivenUp });
  };
}

/** A call that is on its way. */
interface Asked {
  readonly api: WireApi;
  readonly body: JsonObject;
  readonly call: OpenCall;
  /** The program does not want its answer any more. */
  readonly isGivenUp: () => boolean;
}

function pathOf(url: string): string {
  return /^[a-z]+:\/\/[^/?#]*([^?#]*)/i.exec(url)?.[1] ?? "";
}

/** A request as it was recorded: what must not leave the process was taken out of it. */
function shownBody(run: CaptureRun, api: WireApi, request: JsonObject): string {
  const { request: shown } = run.shown({ api: api.name, model: String(request["model"] ?? "unknown"), request });
  return JSON.stringify(shown);
}

/** In a replay the proxy answers, from the recording. */
function redirected(
  settings: Settings,
  run: CaptureRun,
  api: WireApi,
  init: RequestInit | undefined,
): Parameters<Fetch> {
  const headers = new Headers(init?.headers);
  headers.delete("x-api-key");
  headers.set("authorization", `Bearer ${settings.token ?? "quarterdeck"}`);
  return [`${settings.url}${PROXY_PREFIX}/runs/${run.run_id}${PROXY_PATHS[api.name]}`, { ...init, headers }];
}

function bodyOf(init: RequestInit | undefined): JsonObject | null {
  if (init?.method?.toUpperCase() !== "POST" || typeof init.body !== "string") return null;
  try {
    const value = JSON.parse(init.body) as Json;
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

/** The beginning of a text, without the word that is cut in its middle: half a secret is found by nobody. */
function beginning(text: string): string {
  if (text.length <= ERROR_CHARS) return text;
  const words = text.slice(0, ERROR_CHARS).replace(/\S*$/, "");
  return words === "" ? `an answer of ${text.length} characters whose first ${ERROR_CHARS} are one word` : words;
}

/** What is wrong here is not the program's affair: the response is given on as it came. */
async function observed(response: Response, asked: Asked): Promise<Response> {
  const { api, call, isGivenUp } = asked;
  const { status } = response;
  const content_type = response.headers.get("content-type") ?? "";
  if (response.ok && response.body && content_type.includes("event-stream")) return streamed(response, asked);
  let raw: string;
  try {
    raw = await response.clone().text();
  } catch (error) {
    call.failed(error, { broken_by: isGivenUp() ? "client" : "provider", content_type, status });
    return response;
  }
  const came = { content_type, raw, status };
  if (!response.ok) {
    const headers = passedOnly(response.headers);
    const told = Object.keys(headers).length > 0 ? { headers } : {};
    call.failed(new Error(beginning(raw)), { ...came, ...told, code: `http_${status}` });
    return response;
  }
  try {
    const value = JSON.parse(raw) as Json;
    call.completed({ ...completed(api.answer(isObject(value) ? value : {})), ...came });
  } catch (error) {
    // Its bytes are kept; what they say is not known.
    call.failed(error, came);
  }
  return response;
}

function completed(answer: WireAnswer): JsonObject {
  const { content, tool_calls, usage, finish_reason, model } = answer;
  return {
    content,
    ...(finish_reason === "" ? {} : { finish_reasons: [finish_reason] }),
    ...(model === "" ? {} : { response_model: model }),
    tool_calls: tool_calls.map((one) => ({ ...one })),
    ...(usage ? { usage: { ...usage } } : {}),
  };
}

/** Passes a stream on as it comes, and reads a copy when it has ended. */
function streamed(response: Response, { api, body, call, isGivenUp }: Asked): Response {
  const { status, statusText, headers } = response;
  const chunks: Uint8Array[] = [];
  const stream = observeStream(response.body as ReadableStream<Uint8Array>, {
    chunk: (bytes) => {
      if (chunks.length === 0) call.event("model.first_token", {});
      chunks.push(bytes);
    },
    ended: (failure, by = "provider") => {
      const raw = Buffer.concat(chunks).toString("utf8");
      const { answer, isWhole } = assembled(api, body, raw);
      const said = { ...completed(answer), content_type: headers.get("content-type") ?? "", raw, status };
      // Clients stop reading at the last event, before the stream itself ends.
      if (failure && !isWhole) call.failed(failure, { ...said, broken_by: isGivenUp() ? "client" : by });
      else call.completed(said);
    },
  });
  return Object.defineProperty(new Response(stream, { status, statusText, headers }), "url", { value: response.url });
}

function assembled(api: WireApi, body: JsonObject, text: string): { answer: WireAnswer; isWhole: boolean } {
  const assembler = api.assembler(body);
  const splitter = new EventSplitter();
  let isWhole = false;
  try {
    for (const event of splitter.push(Buffer.from(text))) {
      assembler.push(event);
      isWhole ||= assembler.isLast(event);
    }
  } catch {
    // A stream of another form: its bytes are kept, what it says is not known.
  }
  return { answer: assembler.answer(), isWhole };
}
