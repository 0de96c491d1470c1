// Looks whether the servers of MCP tools still say what was pinned, and pins what they say now once somebody has read it.
// Invariant: what is approved is what was shown: the approval names the digest of all definitions, and they are asked for again.
import { digestOf } from "../kit/hash.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { AppError, messageOf } from "../contract/errors.ts";
import type { Applied, RegistryItem, ToolManifest } from "../contract/manifests.ts";
import type { ToolReview } from "../contract/tool-reviews.ts";
import type { DiscoveredTool, McpTools } from "../contract/tools.ts";
import { serverOf } from "./registry.ts";
import type { Registry } from "./registry.ts";
import type { Caller } from "./runs.ts";

type McpSpec = Extract<ToolManifest, { kind: "mcp" }>;
/** As it is stored: with the definitions that were pinned. */
type StoredSpec = McpSpec & { readonly definitions: readonly DiscoveredTool[] };

export class ToolReviews {
  private readonly options: { registry: Registry; mcp: McpTools };

  constructor(options: ToolReviews["options"]) {
    this.options = options;
  }

  async review(caller: Caller, name: string): Promise<ToolReview> {
    const item = this.find(caller, name);
    return reviewOf(item, await this.current(item));
  }

  async approve(caller: Caller, name: string, digest: string): Promise<Applied> {
    const item = this.find(caller, name);
    const current = await this.current(item);
    const review = reviewOf(item, current);
    if (review.digest !== digest)
      throw new AppError(
        "CONFLICT",
        `The definitions of ${name} are ${review.digest} now, not ${digest}; review them again`,
      );
    const missing = review.tools.filter((tool) => tool.status === "missing").map((tool) => tool.name);
    if (missing.length > 0)
      throw new AppError(
        "CONFLICT",
        `The server of ${name} has no ${missing.join(", ")} any more; take them out of the manifest and apply it`,
      );
    const spec = canonicalJson({ ...specOf(item), definitions: current });
    const prepared = { kind: item.kind, name, spec, digest: digestOf(spec) };
    const [applied] = await this.options.registry.commit(caller, [prepared]);
    if (!applied) throw new AppError("INTERNAL_ERROR", "nothing was applied");
    return applied;
  }

  private find(caller: Caller, name: string): RegistryItem {
    const item = this.options.registry
      .items(caller.tenant_id, caller.project)
      .filter((one) => one.kind === "Tool" && one.name === name)
      .sort((a, b) => b.version - a.version)[0];
    if (!item) throw new AppError("NOT_FOUND", `There is no Tool ${name}`, { details: { kind: "Tool", name } });
    if ((item.spec as ToolManifest).kind !== "mcp")
      throw new AppError("VALIDATION_ERROR", `The Tool ${name} is of no MCP server: its manifest is its definition`);
    return item;
  }

  /** What its server says now of the tools that the manifest names. */
  private async current(item: RegistryItem): Promise<DiscoveredTool[]> {
    const spec = specOf(item);
    const found = await this.options.mcp.discover(serverOf(spec)).catch((cause) => {
      throw new AppError(
        "DEPENDENCY_UNAVAILABLE",
        `The MCP server of ${item.name} cannot be reached: ${messageOf(cause)}`,
        {
          cause,
        },
      );
    });
    const byName = new Map(found.tools.map((tool) => [tool.name, tool]));
    return spec.tools.flatMap(({ name }) => byName.get(name) ?? []);
  }
}

function specOf(item: RegistryItem): StoredSpec {
  return item.spec as StoredSpec;
}

const shown = ({ description, input_schema, output_schema, digest }: DiscoveredTool) => ({
  description,
  input_schema,
  output_schema,
  digest,
});

function reviewOf(item: RegistryItem, current: readonly DiscoveredTool[]): ToolReview {
  const now = new Map(current.map((tool) => [tool.name, tool]));
  const tools = specOf(item).definitions.map((pinned): ToolReview["tools"][number] => {
    const found = now.get(pinned.name);
    const status = !found ? "missing" : found.digest === pinned.digest ? "same" : "changed";
    return { name: pinned.name, status, pinned: shown(pinned), current: found ? shown(found) : null };
  });
  const changed = tools.some((tool) => tool.status !== "same");
  return { name: item.name, version: item.version, digest: digestOf(canonicalJson(current)), changed, tools };
}
