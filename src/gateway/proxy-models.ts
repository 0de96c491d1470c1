// What clients of a provider's API may ask of the proxy besides calls: which models there are (those of the registry, by their
// names here), and, for all that the proxy does not take, an answer that their SDK understands.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../contract/errors.ts";
import type { ModelManifest, RegistryItem } from "../contract/manifests.ts";
import { PROXY_PREFIX } from "../contract/paths.ts";
import { anthropicMessages } from "../contract/wire/anthropic-messages.ts";
import { openaiChat } from "../contract/wire/openai-chat.ts";
import type { WireApi } from "../contract/wire/wire.ts";
import { rfc3339 } from "../kit/clock.ts";
import type { JsonObject } from "../kit/json.ts";
import type { Caller } from "../orchestrator/runs.ts";
import { refuseAs } from "./proxy-refusal.ts";
import type { Services } from "./services.ts";

/** APIs of one provider, as their clients know them. */
interface Family {
  readonly base: string;
  /** Says in which form errors are. */
  readonly api: WireApi;
  readonly providers: readonly string[];
  readonly one: (item: RegistryItem) => JsonObject;
  readonly list: (models: readonly JsonObject[]) => JsonObject;
}

const specOf = ({ spec }: RegistryItem) => spec as ModelManifest & { readonly provider: string };

const FAMILIES: readonly Family[] = [
  {
    base: "/openai/v1",
    api: openaiChat,
    providers: ["openai", "openai-compatible"],
    one: (item) => ({
      created: Math.floor(item.created_at_us / 1_000_000),
      id: item.name,
      object: "model",
      owned_by: specOf(item).provider,
    }),
    list: (data) => ({ data: [...data], object: "list" }),
  },
  {
    base: "/anthropic/v1",
    api: anthropicMessages,
    providers: ["anthropic"],
    one: (item) => ({
      created_at: rfc3339(item.created_at_us),
      display_name: item.name,
      id: item.name,
      type: "model",
    }),
    list: (data) => ({
      data: [...data],
      first_id: data[0]?.["id"] ?? null,
      has_more: false,
      last_id: data.at(-1)?.["id"] ?? null,
    }),
  },
];

/** Models of these providers that are current in an environment, by name. */
function current({ registry }: Services, caller: Caller, family: Family, env: string): RegistryItem[] {
  const versions = new Map(
    registry
      .aliases(caller.tenant_id, caller.project)
      .filter((alias) => alias.kind === "Model" && alias.env === env)
      .map(({ name, version }) => [name, version]),
  );
  return registry
    .items(caller.tenant_id, caller.project)
    .filter(({ kind, name, version }) => kind === "Model" && versions.get(name) === version)
    .filter((item) => family.providers.includes(specOf(item).provider))
    .toSorted((a, b) => a.name.localeCompare(b.name));
}

/** `callerOf` throws for who may not call the proxy; `taken`: the paths that it takes calls at. */
export function mountModels(
  app: FastifyInstance,
  services: Services,
  given: { callerOf: (req: FastifyRequest) => Caller; taken: readonly string[] },
): void {
  for (const family of FAMILIES) {
    const { base, api } = family;
    const answered = async (reply: FastifyReply, answer: () => Promise<JsonObject>): Promise<void> => {
      try {
        await reply.send(await answer());
      } catch (error) {
        await refuseAs(api, services, reply, error);
      }
    };
    const models = async (req: FastifyRequest): Promise<RegistryItem[]> => {
      const caller = given.callerOf(req);
      const { run } = req.params as { run?: string };
      const env = run === undefined ? "dev" : (await services.runs.get(caller, run)).env;
      return current(services, caller, family, env);
    };
    const taken = given.taken.filter((path) => path.startsWith(base)).map((path) => `POST ${PROXY_PREFIX}${path}`);
    const others = (req: FastifyRequest, reply: FastifyReply): Promise<void> => {
      const known = `${taken.join(", ")} and GET ${PROXY_PREFIX}${base}/models`;
      const message = `The proxy takes no ${req.method} ${req.url}; it takes ${known}`;
      return refuseAs(api, services, reply, new AppError("NOT_FOUND", message));
    };
    for (const prefix of [PROXY_PREFIX, `${PROXY_PREFIX}/runs/:run`]) {
      app.get(`${prefix}${base}/models`, (req, reply) =>
        answered(reply, async () => family.list((await models(req)).map(family.one))),
      );
      app.get(`${prefix}${base}/models/:model`, (req, reply) =>
        answered(reply, async () => {
          const { model = "" } = req.params as { model?: string };
          const found = (await models(req)).find(({ name }) => name === model);
          if (found) return family.one(found);
          throw new AppError("NOT_FOUND", `There is no model ${model} here; apply a Model that names it`);
        }),
      );
      // Before the body is read: it may be of any type.
      app.all(`${prefix}${base}/*`, { onRequest: others }, others);
    }
  }
}
