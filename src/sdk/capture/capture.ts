// `startCapture`: the door for programs that say themselves what they do. Captures model calls of wrapped clients, tools, steps
// and judgements, in runs that the program names or in one for the whole process.
// Invariant: under fail-open nothing here changes what the program does: no error, no waiting, no open handle.
import type { Json } from "../../kit/json.ts";
import { aiSdkMiddleware } from "./ai-sdk.ts";
import type { AiSdkMiddleware } from "./ai-sdk.ts";
import { processHost } from "./host.ts";
import type { Host } from "./host.ts";
import { capturingFetch } from "./http.ts";
import type { Fetch } from "./http.ts";
import { captureMcp } from "./mcp.ts";
import type { McpClient } from "./mcp.ts";
import { Recorder } from "./recorder.ts";
import type { RecorderFigures } from "./recorder.ts";
import { CaptureRun, currentRun } from "./run.ts";
import type { CaptureParts } from "./run.ts";
import { settingsOf } from "./settings.ts";
import type { CaptureOptions, Settings } from "./settings.ts";
import { messageOf, Transport } from "./transport.ts";

export interface RunOptions {
  readonly agent?: string;
  readonly input?: Json;
  readonly labels?: Readonly<Record<string, string>>;
  /** Names the conversation or case that several runs belong to. */
  readonly correlation?: string;
}

/** A client that can be had again with another fetch: those of OpenAI and Anthropic. */
interface WithFetch {
  withOptions(options: { fetch: Fetch }): unknown;
}

const CLOSE_MS = 5_000;

export class Capture {
  private readonly parts: CaptureParts;
  private readonly settings: Settings;
  private readonly runs = new Map<string, CaptureRun>();
  private readonly unhook: () => void;
  private implicit: CaptureRun | null = null;

  constructor(options: CaptureOptions, host: Host) {
    const settings = settingsOf(options, host);
    const transport = new Transport(host, settings);
    const onStopped = (run_id: string, state: string) => this.runs.get(run_id)?.stopped(state);
    const recorder = new Recorder({ host, settings, transport, onStopped });
    this.settings = settings;
    this.parts = { host, settings, recorder, transport };
    this.unhook = host.on("idle", () => void recorder.flush(CLOSE_MS));
    if (settings.enabled) recorder.start();
  }

  /** What was recorded, acknowledged, spilled and lost so far. */
  get figures(): Readonly<RecorderFigures> {
    return { ...this.parts.recorder.figures };
  }

  /** The run that the caller is in; outside of any, one for the whole process, which begins with its first use. */
  get current(): CaptureRun {
    return currentRun() ?? this.process();
  }

  /**
   * A run: what fn does belongs to it, its result is the run's output, what it throws is thrown on. In a process that was
   * started by `quarterdeck capture`, it is a part of that process's run.
   */
  async run<T>(options: RunOptions, fn: (run: CaptureRun) => T | Promise<T>): Promise<T> {
    const agent = options.agent ?? this.settings.agent;
    if (this.settings.run_id !== null) {
      const whole = this.process();
      return whole.within(() => whole.agent(agent, () => fn(whole)));
    }
    const run = this.begin(options);
    try {
      const output = await run.within(() => fn(run));
      run.end("run.succeeded", { output: output ?? null });
      return output;
    } catch (error) {
      run.end("run.failed", { code: error instanceof Error ? error.name : "error", message: messageOf(error) });
      throw error;
    } finally {
      this.runs.delete(run.run_id);
    }
  }

  /** A fetch that captures calls of model APIs; for every client that takes one. */
  fetch(inner: Fetch = this.parts.host.fetch): Fetch {
    return capturingFetch(inner, this.settings, () => this.current);
  }

  /** A client of OpenAI or Anthropic whose calls are captured. */
  client<T extends WithFetch>(client: T): T {
    const inner = "fetch" in client && typeof client.fetch === "function" ? (client.fetch as Fetch) : undefined;
    return client.withOptions({ fetch: this.fetch(inner) }) as T;
  }

  /** Middleware for `wrapLanguageModel` of the Vercel AI SDK. */
  middleware(): AiSdkMiddleware {
    return aiSdkMiddleware(
      this.settings,
      () => this.current,
      (delay_ms, fn) => this.parts.host.hold(delay_ms, fn),
    );
  }

  /** An MCP client whose calls are captured: tools, resources, prompts; `server` stands before their names. */
  mcp<T extends McpClient>(client: T, server?: string): T {
    return captureMcp(client, () => this.current, server);
  }

  /** Sends what was recorded so far. */
  flush(timeout_ms = CLOSE_MS): Promise<void> {
    return this.parts.recorder.flush(timeout_ms);
  }

  /** Ends capture: the run of the process ends, what was recorded is sent, or kept for later. */
  async close(): Promise<void> {
    if (this.settings.run_id === null) this.implicit?.end("run.succeeded", {});
    this.unhook();
    if (this.settings.enabled) await this.parts.recorder.flush(CLOSE_MS);
    this.parts.recorder.close();
  }

  private begin(options: RunOptions): CaptureRun {
    const { settings } = this;
    const run = new CaptureRun(this.parts, null);
    this.runs.set(run.run_id, run);
    const labels = { ...settings.labels, ...options.labels };
    run.begin({
      agent: options.agent ?? settings.agent,
      ...(options.correlation === undefined ? {} : { correlation: options.correlation }),
      ...(settings.env === undefined ? {} : { env: settings.env }),
      input: options.input ?? null,
      ...(Object.keys(labels).length > 0 ? { labels } : {}),
    });
    return run;
  }

  private process(): CaptureRun {
    if (this.implicit) return this.implicit;
    const { run_id } = this.settings;
    this.implicit = run_id === null ? this.begin({}) : new CaptureRun(this.parts, run_id);
    this.runs.set(this.implicit.run_id, this.implicit);
    return this.implicit;
  }
}

/** Starts capture. Throws CONFIG_INVALID for settings that cannot be used; nothing else, later. */
export function startCapture(options: CaptureOptions = {}, host: Host = processHost()): Capture {
  return new Capture(options, host);
}
