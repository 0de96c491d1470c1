// The LLM proxy: unmodified clients of OpenAI and Anthropic APIs, governed and recorded. The intent is committed before the
// call leaves, the outcome before the client gets the last of it; bytes are passed on as they come.
// Invariants: no call leaves that policy or budget did not allow; a replayed call never leaves; a stream is cut where it passes
// what was reserved; whatever happens to the client or the provider, the call ends with an outcome on record.
import { AppError, isAppError, messageOf } from "../contract/errors.ts";
import type { EventDraft } from "../contract/events.ts";
import { newId } from "../contract/ids.ts";
import type { JobFailure, JobOutcome, ModelRoute, Usage } from "../contract/jobs.ts";
import { LIMITS } from "../contract/limits.ts";
import type { BlobStore, Log, Net, NetAnswer, Secrets } from "../contract/ports.ts";
import { present } from "../kit/assert.ts";
import type { PriceRow } from "../contract/catalog.ts";
import type { Clock } from "../kit/clock.ts";
import { isObject, parseJson } from "../kit/json.ts";
import type { JsonObject } from "../kit/json.ts";
import type { Random } from "../kit/random.ts";
import { isOnlyMark } from "../kit/redaction.ts";
import { scrubText } from "../kit/scrub.ts";
import type { StopSignal } from "../kit/stop.ts";
import { modelBound } from "../core/budget.ts";
import type { Governance } from "../core/governance.ts";
import { awaitedCall } from "../core/foreign.ts";
import type { ForeignCall } from "../core/foreign.ts";
import { isClaimable } from "../core/run-state.ts";
import type { CaptureCaller, CaptureOwner, Captures } from "./captures.ts";
import { keptAnswer, keptText } from "./kept-answer.ts";
import type { RawAnswer } from "./kept-answer.ts";
import {
  denied,
  MESSAGE_CHARS,
  networkFailure,
  passedHeaders,
  recordedAnswer,
  refusal,
  statusFailure,
} from "./proxy-answer.ts";
import type { ProxyAnswer } from "./proxy-answer.ts";
import { before, endsRun, Leash, RunWatch } from "./wait.ts";
import type { Subscribe } from "./wait.ts";
import { markJson } from "./redact.ts";
import type { Place, Quarantine } from "./quarantine.ts";
import type { Redactor } from "./redact.ts";
import { canonicalRequest, EventSplitter } from "../contract/wire/wire.ts";
import type { WireAnswer, WireApi } from "../contract/wire/wire.ts";

export interface ProxyOptions {
  readonly captures: Captures;
  readonly redactor: Redactor;
  readonly quarantine: Quarantine;
  readonly owner: () => CaptureOwner;
  readonly governance: Pick<Governance, "of">;
  readonly net: Pick<Net, "request">;
  readonly secrets: Secrets;
  readonly blobs: Pick<BlobStore, "put" | "get">;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly private_origins: readonly string[];
  readonly subscribe: Subscribe;
}

export interface ProxyCall {
  readonly caller: CaptureCaller;
  readonly api: WireApi;
  readonly body: Buffer;
  /** Headers of the client that belong to the provider's API (versions, betas). */
  readonly headers: Readonly<Record<string, string>>;
  readonly run_id?: string;
  readonly agent?: string;
  readonly session?: string;
  /** How long it may wait for a person. */
  readonly wait_ms?: number;
  readonly gone: StopSignal;
}

/** What is asked for, before it is known whether it may be. */
interface Given {
  readonly run_id: string;
  readonly id: string;
  readonly model: string;
  readonly body: JsonObject;
  readonly recorded: JsonObject;
}

/** What came back; `failure` where the provider gave no answer. */
interface Forwarded {
  readonly answer: ProxyAnswer;
  readonly failure: JobFailure | null;
}

/** Failures after which another model is asked. */
const FALLS_BACK: readonly JobFailure["class"][] = ["transient", "rate_limited"];

/** A call that was admitted, on its way. */
interface Admitted {
  readonly call: ProxyCall;
  readonly run_id: string;
  readonly step: number;
  readonly route: ModelRoute;
  readonly max_output_tokens: number;
  readonly worst: Usage;
  readonly begun_ms: number;
}

const FORWARDED_HEADERS = [
  "anthropic-version",
  "anthropic-beta",
  "openai-beta",
  "openai-organization",
  "openai-project",
];
const ANTHROPIC_VERSION = "2023-06-01";
const FRAMING_TOKENS = 64;
/** A token of output is hardly ever longer than this; a stream that passes it ignores its limit. */
const BYTES_PER_TOKEN_MAX = 24;
const SLACK_TOKENS = 256;

const PROVIDERS: Record<WireApi["name"], readonly ModelRoute["provider"][]> = {
  "openai.chat": ["openai", "openai-compatible"],
  "openai.responses": ["openai", "openai-compatible"],
  "openai.embeddings": ["openai", "openai-compatible"],
  "anthropic.messages": ["anthropic"],
  "anthropic.count_tokens": ["anthropic"],
};

export class Proxy {
  private readonly options: ProxyOptions;

  constructor(options: ProxyOptions) {
    this.options = options;
  }

  /** Takes one call. Throws AppError for what is refused before it was admitted. */
  async handle(call: ProxyCall): Promise<ProxyAnswer> {
    const { captures } = this.options;
    const body = bodyOf(call.body);
    const model = String(body["model"]);
    const run_id = await captures.runFor(call.caller, call);
    const request = canonicalRequest(body);
    const signature = captures.signature(call.caller.tenant_id, { api: call.api.name, model, request });
    // The signature is of the request as it came; what is recorded is redacted.
    const place = { tenant_id: call.caller.tenant_id, run_id };
    const seen = this.options.redactor.payload(body, "/request", "model.requested");
    const clean = await this.options.quarantine.keep(place, seen);
    const text = clean.mark ? JSON.stringify(clean.value) : call.body.toString("utf8");
    const recorded: JsonObject = {
      api: call.api.name,
      ...(clean.mark ? { redaction: markJson(clean.mark) } : {}),
      ...(clean.value ? await keptText(this.options.blobs, place, "request", text, clean.value) : {}),
      signature,
    };
    const id = newId("event", this.options).replace("evt_", "call_");
    if (captures.isReplay(run_id)) {
      const found = await captures.replayed(call.caller, run_id, {
        id,
        kind: "model",
        signatures: [signature],
        requested: recorded,
      });
      if (found.ended === "model.denied") return denied(call.api, { data: found.completed });
      return recordedAnswer(this.options, call, found);
    }
    return this.walk(call, { run_id, id, model, body, recorded });
  }

  /** Makes the call; while a provider does not answer, the models that its route falls back to, each decided by itself. */
  private async walk(call: ProxyCall, given: Given): Promise<ProxyAnswer> {
    const { tenant_id, project } = call.caller;
    const env = this.options.owner().peek(given.run_id)?.env ?? "dev";
    const { catalog } = this.options.governance.of({ tenant_id, project, env });
    const first = routeFor(call.api, catalog.model(given.model) ?? catalog.modelOf(given.model), given.model);
    const others = (first.fallback ?? []).flatMap((name) => {
      const route = catalog.model(name);
      return route && PROVIDERS[call.api.name].includes(route.provider) ? [route] : [];
    });
    let last: Forwarded | null = null;
    let recorded = given.recorded;
    for (const [n, route] of [first, ...others].entries()) {
      const price = catalog.price(route.model, this.options.clock.now_us());
      const id = n === 0 ? given.id : `${given.id}_${n}`;
      const admitted = await this.admit(call, { ...given, id, recorded, route, price });
      if ("status" in admitted) {
        if (!last) return admitted;
        // One that may not be asked is passed over; when none is left, the client has what the provider said.
        continue;
      }
      last = await this.forward(admitted, given.body);
      const { failure } = last;
      if (!failure || !FALLS_BACK.includes(failure.class)) break;
      recorded = { ...given.recorded, fallback_of: { code: failure.code, model: route.name, step: admitted.step } };
    }
    return present(last, "a call has at least one route").answer;
  }

  private async admit(
    call: ProxyCall,
    given: Given & { route: ModelRoute; price: PriceRow | null },
  ): Promise<Admitted | ProxyAnswer> {
    const { run_id, id, body, recorded, route, price } = given;
    const max_output_tokens = call.api.limitOf(body) ?? LIMITS.max_output_tokens_default;
    const input = call.body.length + FRAMING_TOKENS;
    const bound = price ? modelBound(price, input, max_output_tokens) : null;
    const foreign: ForeignCall = { call: id, route, max_output_tokens, bound, recorded };
    const watch = new RunWatch(this.options.subscribe, run_id);
    try {
      for (;;) {
        const drafts = await this.options
          .owner()
          .decided(call.caller.tenant_id, run_id, { type: "call", call: foreign });
        const draft = drafts.find((one) => one.call === id && ENDS_WAITING.includes(one.type));
        if (draft?.type === "model.requested") {
          const worst = { input_tokens: input, output_tokens: max_output_tokens };
          const begun_ms = this.options.clock.monotonic_ms();
          return { call, run_id, step: draft.step ?? 0, route, max_output_tokens, worst, begun_ms };
        }
        const refused = draft
          ? denied(call.api, draft)
          : await this.asked(call, run_id, proposedStep(drafts, id) ?? this.awaited(run_id, foreign), watch);
        if (refused) return refused;
      }
    } finally {
      watch.close();
    }
  }

  /** The step of the same call, which waits already; null when it was decided just now. */
  private awaited(run_id: string, call: ForeignCall): number | null {
    const state = this.options.owner().stateOf(run_id);
    return (state && awaitedCall(state, call)?.n) ?? null;
  }

  /** Waits for what people say of a call; null when it may be tried now: they approved it, or it has to be asked for anew. */
  private async asked(
    { api, gone, wait_ms = LIMITS.proxy_wait_ms }: ProxyCall,
    run_id: string,
    step: number | null,
    watch: RunWatch,
  ): Promise<ProxyAnswer | null> {
    const open = step === null ? null : this.options.owner().stateOf(run_id)?.steps.get(step);
    if (step === null || (open && isClaimable(open))) return null;
    const said = watch.next(
      (draft) => endsRun(draft.type) || (draft.step === step && (draft.type === "model.denied" || isGrant(draft))),
    );
    const answer = await before(said, this.options.clock, { wait_ms, gone });
    if (answer) return isGrant(answer) ? null : denied(api, answer);
    const approval = open?.approval?.n ?? "";
    const message = `This call needs the approval of a person (run ${run_id}, approval ${approval}); send the same request again to wait on`;
    return refusal(api, 409, "approval_pending", message, "true");
  }

  private async forward(admitted: Admitted, body: JsonObject): Promise<Forwarded> {
    const { call, route, max_output_tokens } = admitted;
    const { api } = call;
    let key = "";
    try {
      if (route.api_key !== null) key = await this.options.secrets.resolve(route.api_key);
    } catch (error) {
      const failure = { class: "permanent" as const, code: "secret_missing", message: messageOf(error) };
      return this.failed(admitted, failure, 502, null);
    }
    const headers: Record<string, string> = { "content-type": "application/json", ...api.credential(key) };
    if (api.name.startsWith("anthropic.")) headers["anthropic-version"] = ANTHROPIC_VERSION;
    for (const name of FORWARDED_HEADERS) {
      const value = call.headers[name];
      if (value !== undefined) headers[name] = value;
    }
    const sent = JSON.stringify(api.outgoing(body, { model: route.model, max_output_tokens }));
    const leash = new Leash(this.options.clock, { gone: call.gone, timeout_ms: route.timeout_ms });
    const { signal } = leash;
    let isStream = false;
    const policy = { private_origins: this.options.private_origins, response_bytes_max: LIMITS.artifact_bytes_max };
    try {
      const url = `${route.base_url ?? api.base_url}${api.path}`;
      const response = await this.options.net.request(url, { method: "POST", headers, body: sent, signal }, policy);
      const type = response.headers["content-type"] ?? "application/json";
      if (response.status >= 400) {
        const text = scrubText(await response.text(), [key]);
        const answered = { text, headers: passedHeaders(response, type) };
        return this.failed(admitted, statusFailure(response.status, text), response.status, answered);
      }
      if (!type.includes("event-stream")) return await this.whole(admitted, response, type);
      isStream = true;
      const stream = this.streamed(admitted, response, { body, type, leash });
      const answered = { ...passedHeaders(response, type), "cache-control": "no-store" };
      return { answer: { status: response.status, headers: answered, body: stream }, failure: null };
    } catch (error) {
      const failure = networkFailure(error, call.gone.aborted, key);
      if (!call.gone.aborted) return this.failed(admitted, failure, 502, null);
      await this.broken(admitted, failure, NOTHING, { status: 200, text: "", type: "application/json" });
      return { answer: refusal(api, 499, failure.code, failure.message), failure };
    } finally {
      // A stream has only begun.
      if (!isStream) leash.close();
    }
  }

  private async whole(admitted: Admitted, response: NetAnswer, type: string): Promise<Forwarded> {
    const text = await response.text();
    const body = parseJson(text, LIMITS.json_depth_max);
    const answer = admitted.call.api.answer(isObject(body) ? body : {});
    await this.completed(admitted, answer, { status: response.status, text, type });
    return { answer: { status: response.status, headers: passedHeaders(response, type), body: text }, failure: null };
  }

  /** Passes a stream on in whole events, as they come; the last one waits until the outcome is committed. */
  private async *streamed(
    admitted: Admitted,
    response: NetAnswer,
    given: { body: JsonObject; type: string; leash: Leash },
  ): AsyncIterable<string> {
    const { api, gone } = admitted.call;
    const assembler = api.assembler(given.body);
    const splitter = new EventSplitter();
    const limit = (admitted.max_output_tokens + SLACK_TOKENS) * BYTES_PER_TOKEN_MAX;
    let seen = "";
    let held = "";
    let ended = false;
    let isCut = false;
    const raw = (text: string) => ({ status: response.status, text, type: given.type });
    const outcome = (cut_off: boolean) => this.completed(admitted, assembler.answer(), raw(seen), cut_off);
    const broken = (failure: JobFailure) =>
      this.broken(admitted, failure, assembler.answer(), raw(seen.slice(0, seen.length - held.length)));
    try {
      for await (const bytes of response.body) {
        let passed = "";
        for (const event of splitter.push(bytes)) {
          assembler.push(event);
          if (assembler.isOurs(event)) continue;
          seen += event.text;
          if (held !== "" || assembler.isLast(event)) held += event.text;
          else passed += event.text;
        }
        // What came together goes on together: a write for each event costs both sides more than the event.
        if (passed !== "") yield passed;
        if (assembler.output_bytes <= limit) continue;
        ended = true;
        await outcome(true);
        isCut = true;
        given.leash.cut();
        return;
      }
      const rest = splitter.rest();
      seen += rest;
      ended = true;
      await outcome(false);
      yield held + rest;
    } catch (error) {
      // The stream that was cut breaks because of that.
      if (isCut) return;
      if (ended) throw error;
      ended = true;
      await broken(networkFailure(error, gone.aborted, ""));
      throw error;
    } finally {
      given.leash.close();
      // The client has hung up in the middle: what came until then may have to be paid.
      if (!ended) await broken(networkFailure(null, true, ""));
    }
  }

  private async completed(admitted: Admitted, answer: WireAnswer, raw: RawAnswer, cut_off = false): Promise<void> {
    const told = answer.usage !== null && !cut_off;
    const kept = await keptAnswer(this.options, placeOf(admitted), { type: "model.completed", answer, raw });
    const { content, content_ref, tool_calls, recorded } = kept;
    await this.report(admitted, {
      ok: true,
      kind: "model",
      content,
      ...(content_ref ? { content_ref } : {}),
      tool_calls,
      finish_reason: answer.finish_reason,
      // What the provider does not tell is charged at its bound.
      usage: told && answer.usage ? answer.usage : admitted.worst,
      response_model: answer.model === "" ? admitted.route.model : answer.model,
      recorded: { ...recorded, ...(told ? {} : { usage_estimated: true }) },
      ...(cut_off ? { cut_off } : {}),
    });
  }

  private async failed(
    admitted: Admitted,
    failure: JobFailure,
    status: number,
    passed: { text: string; headers: Record<string, string> } | null,
  ): Promise<Forwarded> {
    const { headers, body } = passed
      ? { headers: passed.headers, body: passed.text }
      : refusal(admitted.call.api, status, failure.code, failure.message);
    const place = placeOf(admitted);
    const { redactor, quarantine, blobs } = this.options;
    const found = redactor.payload({ message: failure.message, raw: body }, "", "model.failed");
    const clean = await quarantine.keep(place, found);
    const { "content-type": content_type = "application/json", ...others } = headers;
    const isKept = clean.value !== null && !isOnlyMark(clean.value.raw);
    const raw = isKept ? await keptText(blobs, place, "raw", clean.value.raw) : { raw_withheld: true };
    const recorded: JsonObject = {
      content_type,
      ...(Object.keys(others).length > 0 ? { headers: others } : {}),
      ...raw,
      ...(clean.mark ? { redaction: markJson(clean.mark) } : {}),
      status,
    };
    const message = (clean.value?.message ?? "").slice(0, MESSAGE_CHARS);
    await this.report(admitted, { ok: false, failure: { ...failure, message }, recorded });
    return { answer: { status, headers, body }, failure };
  }

  /** The answer ended before it was whole, by whichever side: what its client had by then is what it is given again. */
  private async broken(admitted: Admitted, failure: JobFailure, answer: WireAnswer, raw: RawAnswer): Promise<void> {
    const given = { type: "model.failed", answer, raw, message: failure.message };
    const kept = await keptAnswer(this.options, placeOf(admitted), given);
    // Whoever hung up may have to pay for what came until then; what never arrived costs nothing.
    const isGone = failure.class === "cancelled";
    const usage = isGone ? { usage: admitted.worst } : {};
    const recorded = { ...kept.recorded, broken_by: isGone ? "client" : "provider" };
    const message = kept.message.slice(0, MESSAGE_CHARS);
    await this.report(admitted, { ok: false, failure: { ...failure, message }, ...usage, recorded });
  }

  private async report({ call, run_id, step, begun_ms }: Admitted, outcome: JobOutcome): Promise<void> {
    const duration_ms = Math.round(this.options.clock.monotonic_ms() - begun_ms);
    const { tenant_id } = call.caller;
    try {
      await this.options.owner().result({ tenant_id, run_id, step, attempt: 1, kind: "model", duration_ms, outcome });
    } catch (error) {
      // The run was ended meanwhile; that the call happened is on record with its intent.
      if (!isAppError(error, "STALE_RESULT") && !isAppError(error, "RUN_TERMINAL")) throw error;
      this.options.log.warn("proxy.late_outcome", { run_id, step, error: messageOf(error) });
    }
  }
}

function placeOf({ call, run_id }: Admitted): Place {
  return { tenant_id: call.caller.tenant_id, run_id };
}

function bodyOf(bytes: Buffer): JsonObject {
  let value: unknown;
  try {
    value = parseJson(bytes.toString("utf8"), LIMITS.json_depth_max);
  } catch (cause) {
    throw new AppError("VALIDATION_ERROR", `The body is no acceptable JSON: ${messageOf(cause)}`, { cause });
  }
  if (!isObject(value) || typeof value["model"] !== "string")
    throw new AppError("VALIDATION_ERROR", "The body needs a `model`", {
      errors: [{ pointer: "/model", message: "must be a string" }],
    });
  return value as JsonObject;
}

function routeFor(api: WireApi, route: ModelRoute | null, model: string): ModelRoute {
  if (!route) throw new AppError("NOT_FOUND", `There is no model ${model} here; apply a Model that names it`);
  if (PROVIDERS[api.name].includes(route.provider)) return route;
  const message = `The model ${route.name} is of ${route.provider}; it has no ${api.name} API`;
  throw new AppError("VALIDATION_ERROR", message);
}

const NOTHING: WireAnswer = { content: null, tool_calls: [], usage: null, finish_reason: "", model: "" };
/** What ends the waiting of whoever made a call. */
const ENDS_WAITING: readonly string[] = ["model.requested", "model.denied"];

function proposedStep(drafts: readonly EventDraft[], id: string): number | null {
  return drafts.find(({ type, call }) => type === "model.proposed" && call === id)?.step ?? null;
}

function isGrant({ type, data }: EventDraft): boolean {
  return type === "human.approval_resolved" && data["final"] === true && data["decision"] === "approved";
}
