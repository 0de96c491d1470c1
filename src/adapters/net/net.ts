// The egress client. Order of the checks: parse once, scheme, literal address, then every address the name resolves to;
// the connection goes to the address that was checked (the lookup is pinned), so a name that changes its mind between
// check and connect gains nothing. Redirects are followed by hand and pass all checks again; credentials do not follow
// across origins. Environment proxies are ignored.
import { lookup } from "node:dns";
import { BlockList, isIP } from "node:net";
import { pipeline, Readable } from "node:stream";
import type { Transform } from "node:stream";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { Agent, fetch as undiciFetch } from "undici";
import type { RequestInit as UndiciInit } from "undici";
import { LIMITS } from "../../contract/limits.ts";
import { NetRefused } from "../../contract/ports.ts";
import type { Net, NetAnswer, NetCall, NetPolicy } from "../../contract/ports.ts";
import { Exchange, tooLarge } from "./exchange.ts";
import type { Head } from "./exchange.ts";

const PRIVATE = new BlockList();
// A list of its own: Node matches IPv4 addresses against mapped IPv6 subnets of the same list.
const PRIVATE_IPV6 = new BlockList();
for (const [network, prefix] of [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.88.99.0", 24],
  ["192.168.0.0", 16],
  // The host agent of a large cloud: public by number, private by use.
  ["168.63.129.16", 32],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 4],
  ["240.0.0.0", 4],
] as const)
  PRIVATE.addSubnet(network, prefix, "ipv4");
for (const [network, prefix] of [
  ["::", 96],
  ["64:ff9b::", 96],
  ["64:ff9b:1::", 48],
  ["100::", 64],
  ["2001::", 23],
  ["2001:db8::", 32],
  ["2002::", 16],
  ["fc00::", 7],
  ["fe80::", 10],
  ["fec0::", 10],
  ["ff00::", 8],
  ["::ffff:0:0", 96],
] as const)
  PRIVATE_IPV6.addSubnet(network, prefix, "ipv6");

const GLOBAL_IPV6 = new BlockList();
GLOBAL_IPV6.addSubnet("2000::", 3, "ipv6");

/** True for an address that is not a public unicast address. IPv6 is an allow-list: global unicast less what is special. */
export function isPrivateAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 4) return PRIVATE.check(address, "ipv4");
  return family === 0 || !GLOBAL_IPV6.check(address, "ipv6") || PRIVATE_IPV6.check(address, "ipv6");
}

type LookupCallback = (
  error: Error | null,
  addresses: { address: string; family: number }[] | string,
  family?: number,
) => void;

/** Resolves and refuses the name when any of its addresses is private. */
function guardedLookup(hostname: string, options: { all?: boolean }, callback: LookupCallback): void {
  lookup(hostname, { all: true }, (error, addresses) => {
    if (error) return callback(error, []);
    const bad = addresses.find(({ address }) => isPrivateAddress(address));
    if (bad || addresses.length === 0) return callback(new NetRefused(`${hostname} resolves to a private address`), []);
    const first = addresses[0];
    if (options.all || !first) return callback(null, addresses);
    callback(null, first.address, first.family);
  });
}

const publicAgent = new Agent({
  connect: { lookup: guardedLookup as never, timeout: 10_000 },
  maxRedirections: 0,
} as never);
const privateAgent = new Agent({ connect: { timeout: 10_000 } });

/** Parses a destination and refuses what can be refused without a look-up. Throws NetRefused or TypeError. */
export function checkedUrl(text: string, policy: NetPolicy): { url: URL; isPrivate: boolean } {
  const url = new URL(text);
  if (url.protocol !== "http:" && url.protocol !== "https:") throw new NetRefused(`${url.protocol} is not allowed`);
  if (url.username !== "" || url.password !== "") throw new NetRefused("credentials in a URL are not allowed");
  const isPrivate = policy.private_origins.includes(url.origin);
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (!isPrivate && isIP(host) !== 0 && isPrivateAddress(host)) {
    throw new NetRefused(`${url.origin} is a private address; add it to egress.private_origins to allow it`);
  }
  const port = url.port === "" ? 443 : Number(url.port);
  if (!isPrivate && port < 1024 && port !== 80 && port !== 443)
    throw new NetRefused(`port ${port} is not a port of the web`);
  return { url, isPrivate };
}

const SECRET_HEADERS = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
const REDIRECTS = new Set([301, 302, 303, 307, 308]);

export class EgressNet implements Net {
  fetch(target: string, init: RequestInit, policy: NetPolicy): Promise<Response> {
    return followed<RequestInit, Response>(target, { ...init, redirect: "manual" }, policy, {
      send,
      location: (response) => response.headers.get("location"),
      drop: (response) => response.body?.cancel(),
      redirected,
    }).then((response) => limited(response, policy.response_bytes_max));
  }

  request(target: string, call: NetCall, policy: NetPolicy): Promise<NetAnswer> {
    return followed<NetCall, Answered>(target, call, policy, {
      send: (url, asked, dispatcher) => dispatch(url, asked, dispatcher, policy.response_bytes_max),
      location: ({ headers }) => textOf(headers["location"]),
      drop: ({ exchange }) => exchange.drop(),
      redirected: redirectedCall,
    }).then((answered) => answerOf(answered, policy.response_bytes_max));
  }
}

/** What the two ways of asking do differently. */
interface Way<Asked, Got> {
  send(url: URL, asked: Asked, dispatcher: Agent): Promise<Got>;
  location(got: Got): string | null;
  drop(got: Got): unknown;
  redirected(asked: Asked, status: number, crossOrigin: boolean): Asked;
}

async function followed<Asked, Got extends { status: number }>(
  target: string,
  asked: Asked,
  policy: NetPolicy,
  way: Way<Asked, Got>,
): Promise<Got> {
  let { url, isPrivate } = checkedUrl(target, policy);
  for (let hop = 0; ; hop++) {
    const got = await way.send(url, asked, isPrivate ? privateAgent : publicAgent);
    const { status } = got;
    const location = REDIRECTS.has(status) ? way.location(got) : null;
    if (location === null) return got;
    await way.drop(got);
    if (hop >= LIMITS.http_redirects_max) throw new NetRefused(`more than ${LIMITS.http_redirects_max} redirects`);
    const next = checkedUrl(new URL(location, url).href, policy);
    asked = way.redirected(asked, status, next.url.origin !== url.origin);
    ({ url, isPrivate } = next);
  }
}

/** undici wraps what the lookup threw. */
function refusalIn(error: unknown): unknown {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof NetRefused ? cause : error;
}

interface Answered extends Head {
  readonly exchange: Exchange;
}

async function dispatch(url: URL, call: NetCall, dispatcher: Agent, bytes_max: number): Promise<Answered> {
  const { method, headers, body = null, signal } = call;
  const exchange = new Exchange(signal, bytes_max);
  if (!signal.aborted)
    dispatcher.dispatch({ origin: url.origin, path: `${url.pathname}${url.search}`, method, headers, body }, exchange);
  try {
    return { ...(await exchange.head), exchange };
  } catch (error) {
    throw refusalIn(error);
  }
}

function textOf(value: string | string[] | undefined): string | null {
  return value === undefined ? null : String(value);
}

const DECODERS: Readonly<Record<string, () => Transform>> = {
  gzip: createGunzip,
  "x-gzip": createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
};

/** Nothing asks for an encoding; a server that uses one all the same is understood. */
function answerOf({ status, headers: given, exchange }: Answered, bytes_max: number): NetAnswer {
  const headers: Record<string, string> = {};
  for (const name of Object.keys(given)) headers[name] = textOf(given[name]) ?? "";
  const decoder = DECODERS[headers["content-encoding"]?.toLowerCase() ?? ""];
  if (!decoder) {
    return { status, headers, body: exchange.body(), text: async () => (await exchange.whole()).toString("utf8") };
  }
  const decoded = pipeline(Readable.from(exchange.body(), { objectMode: false }), decoder(), () => undefined);
  const body = within(decoded, bytes_max);
  const text = async (): Promise<string> => {
    const parts: Uint8Array[] = [];
    for await (const part of body) parts.push(part);
    return Buffer.concat(parts).toString("utf8");
  };
  return { status, headers, body, text };
}

async function* within(body: Readable, bytes_max: number): AsyncGenerator<Uint8Array> {
  let seen = 0;
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    seen += chunk.byteLength;
    if (seen > bytes_max) throw tooLarge(bytes_max);
    yield chunk;
  }
}

async function send(url: URL, request: RequestInit, dispatcher: Agent): Promise<Response> {
  try {
    return await undiciFetch(url, { ...(request as unknown as UndiciInit), dispatcher });
  } catch (error) {
    throw refusalIn(error);
  }
}

/** Of a call whose body would change hands nothing is sent again. */
function redirectedCall(call: NetCall, status: number, crossOrigin: boolean): NetCall {
  const init: RequestInit = { method: call.method, headers: { ...call.headers } };
  const next = redirected(init, status, crossOrigin);
  const { body, signal } = call;
  const keepsBody = next.method !== "GET" && body !== undefined;
  const headers = Object.fromEntries(new Headers(next.headers));
  return { method: next.method === "GET" ? "GET" : "POST", headers, signal, ...(keepsBody ? { body } : {}) };
}

function redirected(request: RequestInit, status: number, crossOrigin: boolean): RequestInit {
  const headers = new Headers(request.headers);
  if (crossOrigin)
    for (const name of Array.from(headers.keys()))
      if (SECRET_HEADERS.includes(name) || name.startsWith("x-")) headers.delete(name);
  const method = (request.method ?? "GET").toUpperCase();
  const toGet = status === 303 || ((status === 301 || status === 302) && method === "POST");
  if (!toGet) {
    if (method !== "GET" && method !== "HEAD" && crossOrigin)
      throw new NetRefused("a redirect would carry the body to another origin");
    return { ...request, headers };
  }
  const { body: _dropped, ...rest } = request;
  return { ...rest, headers, method: "GET" };
}

/** The same response, cut off with an error past its limit. */
function limited(response: Response, bytes_max: number): Response {
  if (!response.body) return response;
  let seen = 0;
  const gate = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      seen += chunk.byteLength;
      if (seen > bytes_max) controller.error(tooLarge(bytes_max));
      else controller.enqueue(chunk);
    },
  });
  return new Response(response.body.pipeThrough(gate), {
    status: response.status,
    statusText: response.statusText,
    headers: response.headers,
  });
}
