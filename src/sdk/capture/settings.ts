// Settings of capture: options first, then the environment, which `quarterdeck capture -- COMMAND` sets. What is wrong is said
// when capture starts, by name; it is the one thing that capture ever throws of its own accord under fail-open.
import { AppError } from "../../contract/errors.ts";
import { NAME_PATTERN } from "../../contract/paths.ts";
import { PROXY_PREFIX } from "../../contract/paths.ts";
import { REDACTION_LEVELS } from "../../kit/redaction.ts";
import type { RedactionLevel } from "../../kit/redaction.ts";
import type { Host } from "./host.ts";

export interface CaptureOptions {
  /** Name of the agent; QUARTERDECK_AGENT, else `captured`. */
  readonly agent?: string;
  /** The server; QUARTERDECK_URL, else http://127.0.0.1:7800. */
  readonly url?: string;
  /** QUARTERDECK_TOKEN; needs the permission `events:write`. */
  readonly token?: string;
  /** Environment of the runs: dev, staging, prod. */
  readonly env?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /**
   * `open` (default): the program goes on whatever happens to capture. `closed`: no call is made before its intent is
   * acknowledged, and none once the run was stopped on the server.
   */
  readonly fail?: "open" | "closed";
  /** What is taken out before anything leaves the process; default `secrets`. The server looks again. */
  readonly redact?: RedactionLevel;
  /**
   * Folder where events are kept while the server does not answer, for this user alone (mode 700); by default one below the
   * system's temporary folder. False: they are kept in memory alone.
   */
  readonly spill?: string | false;
  /** False: nothing is captured, everything else works as if it were. QUARTERDECK_CAPTURE=off does the same. */
  readonly enabled?: boolean;
  /** Told of what could not be captured. By default the first few are process warnings. */
  readonly onProblem?: (problem: string) => void;
}

export interface Settings {
  readonly agent: string;
  readonly url: string;
  readonly token: string | undefined;
  readonly env: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly closed: boolean;
  readonly redact: RedactionLevel;
  readonly spill: string | null;
  readonly enabled: boolean;
  /** The run that this process belongs to, where somebody else began it. */
  readonly run_id: string | null;
  /** The run is the replay of another one: calls are answered from there. */
  readonly replay: boolean;
  readonly onProblem: (problem: string) => void;
}

const DEFAULT_URL = "http://127.0.0.1:7800";

/** Throws CONFIG_INVALID. */
export function settingsOf(options: CaptureOptions, host: Pick<Host, "env" | "temp" | "warn">): Settings {
  const { env } = host;
  const given = (name: string): string | undefined => (env[name] === "" ? undefined : env[name]);
  const agent = options.agent ?? given("QUARTERDECK_AGENT") ?? "captured";
  const url = options.url ?? given("QUARTERDECK_URL") ?? DEFAULT_URL;
  const redact = options.redact ?? "secrets";
  if (!new RegExp(NAME_PATTERN).test(agent))
    throw new AppError(
      "CONFIG_INVALID",
      `agent is ${JSON.stringify(agent)}; use letters, digits, dot, dash, underscore`,
    );
  if (!/^https?:\/\/[^/]+/.test(url))
    throw new AppError("CONFIG_INVALID", `url is ${JSON.stringify(url)}; it must be http(s)://HOST:PORT`);
  if (!REDACTION_LEVELS.includes(redact))
    throw new AppError(
      "CONFIG_INVALID",
      `redact is ${redact as string}; it must be one of ${REDACTION_LEVELS.join(", ")}`,
    );
  const spill = options.spill ?? `${host.temp}/spill`;
  return {
    agent,
    url: url.replace(/\/+$/, ""),
    token: options.token ?? given("QUARTERDECK_TOKEN"),
    env: options.env,
    labels: options.labels ?? {},
    closed: options.fail === "closed",
    redact,
    spill: spill === false ? null : spill,
    enabled: options.enabled ?? given("QUARTERDECK_CAPTURE") !== "off",
    run_id: given("QUARTERDECK_RUN") ?? null,
    replay: given("QUARTERDECK_REPLAY") === "1",
    onProblem: options.onProblem ?? warner(host),
  };
}

const WARNINGS_MAX = 5;

function warner(host: Pick<Host, "warn">): (problem: string) => void {
  let told = 0;
  return (problem) => {
    if (told < WARNINGS_MAX) host.warn(problem);
    told += 1;
  };
}

/** True for calls that go through the proxy: they are recorded there. */
export function isProxied(url: string, settings: Settings): boolean {
  return url.startsWith(`${settings.url}${PROXY_PREFIX}/`);
}
