import { rfc3339 } from "../../kit/clock.ts";
import { AppError } from "../../contract/errors.ts";
import { MANIFEST_KINDS } from "../../contract/manifests.ts";
import type { ManifestKind } from "../../contract/manifests.ts";
import type { Handlers } from "../handlers.ts";

export const registryHandlers = {
  applyManifests: async ({ services, request }) => {
    const { tenant_id, project, principal } = request.caller;
    return {
      items: await services.registry.apply({ tenant_id, project, principal, text: request.raw.toString("utf8") }),
    };
  },
  listRegistry: async ({ services, request }) => {
    const { tenant_id, project } = request.caller;
    const aliases = services.registry.aliases(tenant_id, project);
    const items = services.registry.items(tenant_id, project).map((item) => ({
      kind: item.kind,
      name: item.name,
      version: item.version,
      digest: item.digest,
      state: item.state,
      envs: aliases
        .filter((a) => a.kind === item.kind && a.name === item.name && a.version === item.version)
        .map((a) => a.env),
      created_by: item.created_by,
      created_at: rfc3339(item.created_at_us),
    }));
    return { items };
  },
  getRegistryItem: async ({ services, request }) => {
    const { tenant_id, project } = request.caller;
    const { kind, name } = request.params;
    const found = services.registry
      .items(tenant_id, project)
      .filter((item) => item.kind === kind && item.name === name)
      .sort((a, b) => b.version - a.version)[0];
    if (!found) throw new AppError("NOT_FOUND", `There is no ${kind} ${name}`, { details: { kind, name } });
    const { version, digest, state, spec } = found;
    return { kind, name, version, digest, state, spec };
  },
  promote: async ({ services, request }) => {
    const alias = request.body as unknown as { kind: ManifestKind; name: string; version: number; env: string };
    if (!MANIFEST_KINDS.includes(alias.kind))
      throw new AppError("VALIDATION_ERROR", `kind must be one of ${MANIFEST_KINDS.join(", ")}`);
    await services.registry.promote(request.caller.tenant_id, request.caller.project, alias);
    return alias;
  },
} satisfies Partial<Handlers>;
