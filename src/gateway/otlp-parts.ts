// An export whose traces belong to several nodes: each takes those of its own groups out of the same bytes. A node that fails
// fails the export: its exporter sends it again, and a span that is on record already changes nothing.
import type { FastifyRequest } from "fastify";
import { externalId } from "../capture/otlp/otlp.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import type { Exported, ExportResult } from "../contract/otlp.ts";
import { groupOfName } from "../contract/placement.ts";
import { PART } from "./forward.ts";
import type { Forwarder } from "./forward.ts";
import type { Services } from "./services.ts";

interface Parts {
  readonly services: Services;
  readonly forwarder: Forwarder;
  readonly req: FastifyRequest;
}

const PAUSE_MS = 50;
/** How a node tells another one what became of its part, whatever the type of the export. */
const RESULT = "quarterdeck-result";

export function resultHeader(result: ExportResult): Record<string, string> {
  return { [RESULT]: encodeURIComponent(JSON.stringify(result)) };
}

export async function takeParts<T extends { readonly trace_id: string }>(
  parts: Parts,
  exported: Exported<T>,
  take: (own: Exported<T>) => Promise<ExportResult>,
): Promise<ExportResult> {
  const { services, req } = parts;
  const { groups } = services;
  if (groups === 1 && services.owner(0).isSelf) return take(exported);
  const groupFor = ({ trace_id }: T) => groupOfName(externalId(trace_id), groups);
  const of = (wanted: ReadonlySet<number>) => exported.items.filter((item) => wanted.has(groupFor(item)));
  const part = req.headers[PART];
  if (typeof part === "string") {
    const mine = new Set(part.split(",").map(Number));
    for (const group of mine)
      if (!services.owner(group).isSelf) throw new AppError("FENCED", `Group ${group} is not owned here any more`);
    // What cannot be read was said by the node that was asked.
    return take({ ...exported, items: of(mine), faults: [] });
  }
  const owners = await ownersOf(services, new Set(exported.items.map(groupFor)));
  const own = { ...exported, items: of(new Set(owners.get(null))) };
  const asked = [...owners].flatMap(([url, theirs]) => (url === null ? [] : [askNode(parts, url, theirs)]));
  return merged(await Promise.all([take(own), ...asked]));
}

/** Groups by where their owner answers; null: here. */
async function ownersOf(services: Services, groups: ReadonlySet<number>): Promise<Map<string | null, number[]>> {
  const owners = new Map<string | null, number[]>();
  const end = services.clock.monotonic_ms() + LIMITS.forward_wait_ms;
  for (const group of groups) {
    for (;;) {
      const { isSelf, url } = services.owner(group);
      if (isSelf || url !== null) {
        const key = isSelf ? null : url;
        owners.set(key, [...(owners.get(key) ?? []), group]);
        break;
      }
      if (services.clock.monotonic_ms() > end) throw new AppError("FENCED", `No node owns group ${group} just now`);
      await services.clock.sleep(PAUSE_MS);
    }
  }
  return owners;
}

async function askNode({ forwarder, req }: Parts, url: string, groups: readonly number[]): Promise<ExportResult> {
  const body = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
  try {
    const { headers } = await forwarder.ask(url, req, { path: req.url, body, part: groups.join(",") });
    return JSON.parse(decodeURIComponent(String(headers[RESULT]))) as ExportResult;
  } catch (cause) {
    // Whatever it was: the exporter has to send it again, and only does so when it is told to.
    throw new AppError("FENCED", `The node at ${url} did not take its part of the export: ${messageOf(cause)}`, {
      cause,
    });
  }
}

function merged(results: readonly ExportResult[]): ExportResult {
  return {
    rejected: results.reduce((sum, one) => sum + one.rejected, 0),
    message: results
      .map((one) => one.message)
      .filter((message) => message !== "")
      .join("; "),
  };
}
