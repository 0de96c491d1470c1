// The registry as a service: applies manifests, and answers what governs a run. Catalogs are built once per change and
// environment; a decision only reads them.
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import type { Clock } from "../kit/clock.ts";
import { encodeId, uuidBytes } from "../kit/ids.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import { MCP_OFFERS } from "../contract/mcp-methods.ts";
import type { Applied, ManifestKind, RegistryItem, ToolManifest } from "../contract/manifests.ts";
import type { Db, DbTx, Log } from "../contract/ports.ts";
import type { McpServer, McpTools } from "../contract/tools.ts";
import type { BuiltinTable } from "../core/catalog.ts";
import type { Governance, Governed, Scope } from "../core/governance.ts";
import { RegistryHistory } from "../core/registry-history.ts";
import type { AliasMove } from "../core/registry-history.ts";
import {
  currentAlias,
  findVersion,
  insertItem,
  keepMove,
  latestVersion,
  listAliases,
  listAliasMoves,
  listItems,
  listScopes,
  lockRegistry,
  setAlias,
} from "../store/registry.ts";
import type { Alias } from "../store/registry.ts";
import { readManifests } from "./manifests.ts";
import type { Manifest } from "./manifests.ts";

/** Applying moves the alias of this environment; others need a promotion. */
export const APPLY_ENV = "dev";

export interface ApplyRequest {
  readonly tenant_id: string;
  readonly project: string;
  readonly principal: string;
  readonly text: string;
}

/** A resource as it will be stored: its spec as canonical JSON. */
export interface PreparedItem {
  readonly kind: ManifestKind;
  readonly name: string;
  readonly spec: string;
  readonly digest: string;
}

/** The server that a manifest names. */
export function serverOf(spec: Extract<ToolManifest, { kind: "mcp" }>): McpServer {
  return spec.transport === "stdio"
    ? { transport: "stdio", command: spec.command, cwd: spec.cwd ?? null, env: { ...spec.env } }
    : { transport: "http", url: spec.url, headers: { ...spec.headers } };
}

export class Registry implements Governance {
  private readonly options: {
    db: Db;
    mcp: McpTools;
    clock: Clock;
    log: Log;
    builtins: BuiltinTable;
    stdio: boolean;
    /** Returns when every control node uses the registry as it is now. */
    everywhere?: () => Promise<void>;
  };
  private readonly loaded = new Map<string, RegistryHistory>();
  private readonly listeners = new Set<() => void>();

  constructor(options: Registry["options"]) {
    this.options = options;
  }

  /** Loads every project, before the first run is recovered. */
  async open(): Promise<void> {
    const scopes = await this.options.db.transaction({ role: "qd_system" }, listScopes);
    for (const scope of scopes) await this.reload(encodeId("ten", uuidBytes(scope.tenant_id)), scope.project_id);
  }

  of({ tenant_id, project, env, overrides }: Scope): Governed {
    return this.history(tenant_id, project).now(env, overrides);
  }

  asOf({ tenant_id, project, env, overrides }: Scope, at_us: number): readonly Governed[] {
    return this.history(tenant_id, project).at(env, at_us, overrides);
  }

  private history(tenant_id: string, project: string): RegistryHistory {
    return this.loaded.get(`${tenant_id}/${project}`) ?? EMPTY;
  }

  async reload(tenant_id: string, project: string): Promise<void> {
    const [items, aliases, moves] = await this.options.db.transaction({ role: "qd_app", tenant_id }, async (tx) => [
      await listItems(tx, project),
      await listAliases(tx, project),
      await listAliasMoves(tx, project),
    ]);
    const { builtins, log } = this.options;
    const onUnusable = (error: unknown) => log.error("policy.unusable", { error: messageOf(error) });
    this.loaded.set(`${tenant_id}/${project}`, new RegistryHistory({ items, aliases, moves, builtins, onUnusable }));
    for (const listener of this.listeners) listener();
  }

  /** Calls the listener when something may have changed; returns the unsubscription. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  items(tenant_id: string, project: string): readonly RegistryItem[] {
    return this.history(tenant_id, project).items;
  }

  has(item: { tenant_id: string; project: string; kind: ManifestKind; name: string; version: number }): boolean {
    const { kind, name, version } = item;
    return this.items(item.tenant_id, item.project).some(
      (other) => other.kind === kind && other.name === name && other.version === version,
    );
  }

  /** Tenants and projects with anything in them. */
  scopes(): { tenant_id: string; project: string }[] {
    return [...this.loaded.keys()].map((key) => {
      const at = key.indexOf("/");
      return { tenant_id: key.slice(0, at), project: key.slice(at + 1) };
    });
  }

  aliases(tenant_id: string, project: string): readonly Alias[] {
    return this.history(tenant_id, project).aliases;
  }

  /** Each change of an alias, the oldest first. */
  moves(tenant_id: string, project: string): readonly AliasMove[] {
    return this.history(tenant_id, project).moves;
  }

  /** Applies manifests: all or none. The same file twice changes nothing. */
  async apply(request: ApplyRequest): Promise<Applied[]> {
    const manifests = readManifests(request.text);
    const prepared: PreparedItem[] = [];
    for (const manifest of manifests) {
      const { kind, name } = manifest;
      const spec = canonicalJson(await this.complete(manifest));
      prepared.push({ kind, name, spec, digest: digestOf(spec) });
    }
    return this.commit(request, prepared);
  }

  /** Makes versions of what is complete: all or none. */
  async commit(
    { tenant_id, project, principal }: Omit<ApplyRequest, "text">,
    prepared: readonly PreparedItem[],
  ): Promise<Applied[]> {
    const applied = await this.options.db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      await lockRegistry(tx, project);
      const results: Applied[] = [];
      const at_us = this.options.clock.now_us();
      for (const item of prepared) results.push(await this.applyOne(tx, project, { principal, at_us }, item));
      return results;
    });
    await this.changed(tenant_id, project);
    return applied;
  }

  /** An MCP tool is stored with the definitions its server gives now: they are what is pinned. */
  private async complete(manifest: Manifest): Promise<unknown> {
    const spec = manifest.spec as ToolManifest;
    if (manifest.kind !== "Tool") return spec;
    if (spec.kind === "builtin" && !this.options.builtins[spec.builtin]) {
      throw new AppError(
        "MANIFEST_INVALID",
        `line ${manifest.line}, /spec/builtin: there is no built-in ${spec.builtin}; there are ${Object.keys(this.options.builtins).join(", ")}`,
      );
    }
    if (spec.kind !== "mcp") return spec;
    if (spec.transport === "stdio" && !this.options.stdio) {
      throw new AppError(
        "MANIFEST_INVALID",
        `line ${manifest.line}, /spec/transport: this server starts no processes for manifests; set stdio_tools: true in its configuration to allow it`,
      );
    }
    const found = await this.options.mcp.discover(serverOf(spec)).catch((cause) => {
      throw new AppError(
        "DEPENDENCY_UNAVAILABLE",
        `Tool ${manifest.name}: its MCP server cannot be reached: ${messageOf(cause)}`,
        { cause },
      );
    });
    for (const offer of MCP_OFFERS) {
      if ((spec[offer] ?? false) === false || found.offers.includes(offer)) continue;
      const message = `line ${manifest.line}, /spec/${offer}: the server has no ${offer}; take this out`;
      throw new AppError("MANIFEST_INVALID", message);
    }
    const byName = new Map(found.tools.map((tool) => [tool.name, tool]));
    const definitions = spec.tools.map((entry) => {
      const tool = byName.get(entry.name);
      if (!tool) {
        const names = [...byName.keys()].join(", ");
        throw new AppError(
          "MANIFEST_INVALID",
          `line ${manifest.line}, /spec/tools: the server has no tool ${entry.name}; it has ${names}`,
        );
      }
      return tool;
    });
    return { ...spec, definitions };
  }

  private async applyOne(
    tx: DbTx,
    project: string,
    by: { principal: string; at_us: number },
    item: PreparedItem,
  ): Promise<Applied> {
    const { kind, name } = item;
    const latest = await latestVersion(tx, project, kind, name);
    const existing = await findVersion(tx, project, kind, name, item.digest);
    const version = existing ?? (latest?.version ?? 0) + 1;
    if (existing === null) {
      await insertItem(tx, project, {
        kind,
        name,
        version,
        digest: item.digest,
        state: "released",
        spec: item.spec,
        created_by: by.principal,
        created_at_us: by.at_us,
      });
    }
    const current = await currentAlias(tx, project, kind, name, APPLY_ENV);
    if (current !== version) await setAlias(tx, project, { kind, name, env: APPLY_ENV, version }, by.at_us);
    const change = latest === null ? "created" : current === version ? "unchanged" : "changed";
    return { kind, name, version, digest: item.digest, change };
  }

  /** Restores items of an export as they were. Items that are there already stay. */
  async restore(
    tenant_id: string,
    project: string,
    items: readonly RegistryItem[],
    aliases: readonly Alias[],
    moves: readonly AliasMove[],
  ): Promise<void> {
    await this.options.db.transaction({ role: "qd_app", tenant_id }, async (tx) => {
      await lockRegistry(tx, project);
      for (const item of items) {
        const known = await findVersion(tx, project, item.kind, item.name, item.digest);
        if (known === null) await insertItem(tx, project, { ...item, spec: canonicalJson(item.spec) });
      }
      const known = new Set((await listAliasMoves(tx, project)).map(moveKey));
      for (const move of movesOf(items, aliases, moves))
        if (!known.has(moveKey(move))) await keepMove(tx, project, move);
      const here = new Map((await listAliases(tx, project)).map((alias) => [aliasKey(alias), alias.version]));
      for (const alias of aliases)
        if (here.get(aliasKey(alias)) !== alias.version)
          await setAlias(tx, project, alias, this.options.clock.now_us());
    });
    await this.changed(tenant_id, project);
  }

  /** Makes another environment use a version. */
  async promote(
    tenant_id: string,
    project: string,
    alias: { kind: ManifestKind; name: string; env: string; version: number },
  ): Promise<void> {
    if (!this.has({ tenant_id, project, ...alias }))
      throw new AppError("NOT_FOUND", `There is no ${alias.kind} ${alias.name} version ${alias.version}`);
    await this.options.db.transaction({ role: "qd_app", tenant_id }, (tx) =>
      setAlias(tx, project, alias, this.options.clock.now_us()),
    );
    await this.changed(tenant_id, project);
  }

  private async changed(tenant_id: string, project: string): Promise<void> {
    await this.reload(tenant_id, project);
    await this.options.everywhere?.();
  }
}

const aliasKey = ({ kind, name, env }: Alias): string => `${kind}/${name}/${env}`;
const moveKey = (move: AliasMove): string => `${aliasKey(move)}/${move.version}/${move.at_us}`;

/** Moves of an export; one from before moves were kept says only where aliases stood in the end. */
function movesOf(
  items: readonly RegistryItem[],
  aliases: readonly Alias[],
  moves: readonly AliasMove[],
): readonly AliasMove[] {
  if (moves.length > 0) return moves;
  return aliases.flatMap((alias) => {
    const item = items.find(
      (one) => one.kind === alias.kind && one.name === alias.name && one.version === alias.version,
    );
    return item ? [{ ...alias, at_us: item.created_at_us }] : [];
  });
}

const EMPTY = new RegistryHistory({ items: [], aliases: [], moves: [], builtins: {} });
