// Reads manifests: YAML text -> documents -> schema -> meaning. Every fault comes with its line and JSON pointer, and all
// faults of a file come at once.
import { LineCounter, parseAllDocuments } from "yaml";
import type { Document } from "yaml";
import { Compile } from "typebox/compile";
import { AppError, isAppError, messageOf } from "../contract/errors.ts";
import type { FieldError } from "../contract/errors.ts";
import { faults } from "../contract/faults.ts";
import { NAME_PATTERN } from "../contract/paths.ts";
import { LIMITS } from "../contract/limits.ts";
import { MCP_METHODS } from "../contract/mcp-methods.ts";
import { MANIFEST_KINDS, MANIFEST_SPECS } from "../contract/manifests.ts";
import type {
  AgentManifest,
  ManifestKind,
  PolicyManifest,
  ToolManifest,
  WorkflowManifest,
} from "../contract/manifests.ts";
import type { TriggerManifest } from "../contract/triggers.ts";
import type { Json } from "../kit/json.ts";
import { isObject } from "../kit/json.ts";
import { canonicalJson } from "../kit/jcs.ts";
import { policyRules, usd, workflowNodes } from "../core/catalog.ts";
import { compileCondition } from "../core/condition.ts";
import { eventCondition } from "../core/event-condition.ts";
import { Policy } from "../core/policy.ts";
import { hasRemoteReference } from "../core/schema.ts";
import { checkSchedule } from "../core/schedule.ts";
import { references } from "../core/template.ts";

export interface Manifest {
  readonly kind: ManifestKind;
  readonly name: string;
  readonly spec: unknown;
  readonly line: number;
}

const validators = Object.fromEntries(MANIFEST_KINDS.map((kind) => [kind, Compile(MANIFEST_SPECS[kind])])) as Record<
  ManifestKind,
  ReturnType<typeof Compile>
>;

const NAME = new RegExp(NAME_PATTERN);

class Reader {
  readonly errors: FieldError[] = [];
  private readonly lines = new LineCounter();
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  read(): Manifest[] {
    const documents = parseAllDocuments(this.text, { lineCounter: this.lines, uniqueKeys: true, version: "1.2" });
    if (documents.length > LIMITS.manifest_documents_max) {
      this.errors.push({ pointer: "", message: `more than ${LIMITS.manifest_documents_max} documents in one file` });
      return [];
    }
    return documents.flatMap((document) => this.document(document as Document));
  }

  private document(document: Document): Manifest[] {
    for (const error of document.errors) {
      this.errors.push({
        pointer: "",
        line: error.linePos?.[0].line ?? 1,
        message: error.message.split("\n")[0] ?? "not YAML",
      });
    }
    if (document.errors.length > 0) return [];
    // Aliases are expanded at most this often: a file of a few lines must not become a gigabyte.
    const value: unknown = document.toJS({ maxAliasCount: 100 });
    if (value === null) return [];
    if (!isObject(value)) return this.fault(document, [], "a manifest is a mapping with kind, metadata and spec");
    const extra = Object.keys(value).find((key) => !["apiVersion", "kind", "metadata", "spec"].includes(key));
    if (extra !== undefined) return this.fault(document, [extra], `unknown field ${extra}`);
    const kind = value["kind"];
    if (!MANIFEST_KINDS.includes(kind as ManifestKind)) {
      return this.fault(
        document,
        ["kind"],
        `kind is ${JSON.stringify(kind)}; it must be one of ${MANIFEST_KINDS.join(", ")}`,
      );
    }
    const metadata = isObject(value["metadata"]) ? value["metadata"] : {};
    const name = metadata["name"];
    if (typeof name !== "string" || !NAME.test(name)) {
      return this.fault(document, ["metadata", "name"], `the name ${JSON.stringify(name)} must fit ${NAME_PATTERN}`);
    }
    return this.spec(document, kind as ManifestKind, name, value["spec"]);
  }

  private spec(document: Document, kind: ManifestKind, name: string, spec: unknown): Manifest[] {
    const validator = validators[kind];
    if (!validator.Check(spec)) {
      for (const { pointer, message } of faults(validator, spec, ""))
        this.fault(document, ["spec", ...pointer.split("/").slice(1)], message);
      return [];
    }
    const wrong = kind === "Policy" ? ruleFaults(spec as PolicyManifest) : [];
    for (const { path, message } of wrong) this.fault(document, ["spec", ...path], message);
    if (wrong.length > 0) return [];
    try {
      checkMeaning(kind, spec);
      canonicalJson(spec);
    } catch (error) {
      return this.fault(document, ["spec"], isAppError(error) ? error.message : messageOf(error));
    }
    return [{ kind, name, spec, line: this.line(document, []) }];
  }

  private fault(document: Document, path: readonly string[], message: string): [] {
    this.errors.push({ pointer: path.map((part) => `/${part}`).join(""), line: this.line(document, path), message });
    return [];
  }

  /** Line of the deepest node on the path that exists. */
  private line(document: Document, path: readonly string[]): number {
    for (let depth = path.length; depth >= 0; depth--) {
      const keys = path.slice(0, depth).map((key) => (/^\d+$/.test(key) ? Number(key) : key));
      const node: unknown = depth === 0 ? document.contents : document.getIn(keys, true);
      if (isObject(node) && Array.isArray(node["range"])) return this.lines.linePos(Number(node["range"][0])).line;
    }
    return 1;
  }
}

/** What is wrong with the rules of a policy that a schema cannot say, each at its place. */
function ruleFaults({ rules }: PolicyManifest): { path: string[]; message: string }[] {
  const found: { path: string[]; message: string }[] = [];
  const ids = new Set<string>();
  for (const [i, rule] of rules.entries()) {
    const at = ["rules", String(i)];
    if (ids.has(rule.id)) found.push({ path: [...at, "id"], message: `the rule id ${rule.id} is used twice` });
    ids.add(rule.id);
    try {
      for (const { when } of policyRules({ rules: [rule] })) if (when !== undefined) compileCondition(when);
    } catch (error) {
      found.push({ path: [...at, "when"], message: messageOf(error) });
    }
  }
  return found;
}

/** What a schema cannot say. Throws AppError. */
function checkMeaning(kind: ManifestKind, spec: unknown): void {
  if (kind === "Workflow") checkWorkflow(spec as WorkflowManifest);
  if (kind === "Trigger") checkTrigger(spec as TriggerManifest);
  if (kind === "Agent") {
    const agent = spec as AgentManifest;
    usd(agent.budget?.cost_usd);
    if (agent.instructions !== undefined && agent.prompt !== undefined) {
      throw new AppError("MANIFEST_INVALID", "an agent has either instructions or a prompt");
    }
    refuseRemote(agent.output_schema, "output_schema");
  }
  if (kind === "Tool") {
    const tool = spec as ToolManifest;
    if (tool.kind === "mcp") checkOffers(tool);
    if (tool.kind !== "http") return;
    refuseRemote(tool.input_schema, "input_schema");
    refuseRemote(tool.output_schema, "output_schema");
    const url = new URL(tool.url.replaceAll(/[{}]/g, "x"));
    if (/[{}]/.test(new URL(tool.url).host))
      throw new AppError("MANIFEST_INVALID", `the origin ${url.origin} must be fixed`);
  }
}

const oneOf = (spec: Readonly<Record<string, unknown>>, fields: readonly string[]): void => {
  const given = fields.filter((field) => spec[field] !== undefined);
  if (given.length !== 1)
    throw new AppError(
      "MANIFEST_INVALID",
      `write exactly one of ${fields.join(", ")}; there ${given.length === 0 ? "is none" : `are ${given.join(" and ")}`}`,
    );
};

function checkTrigger(spec: TriggerManifest): void {
  oneOf(spec, ["agent", "workflow", "intent"]);
  oneOf(spec, ["schedule", "webhook", "event"]);
  if (spec.schedule) checkSchedule(spec.schedule);
  if (spec.event?.when !== undefined) eventCondition(spec.event.when);
  for (const path of references((spec.input ?? null) as Json))
    if (path.split(".")[0] !== "input")
      throw new AppError("MANIFEST_INVALID", `\${${path}} refers to nothing; write \${input...}`);
}

function checkOffers(spec: Extract<ToolManifest, { kind: "mcp" }>): void {
  const methods = MCP_METHODS.filter(({ offer }) => (spec[offer] ?? false) !== false);
  if (spec.tools.length === 0 && methods.length === 0)
    throw new AppError("MANIFEST_INVALID", "nothing is taken from this MCP server: name tools, resources or prompts");
  const taken = methods.find(({ name }) => spec.tools.some((tool) => tool.name === name));
  if (taken)
    throw new AppError(
      "MANIFEST_INVALID",
      `the tool ${taken.name} has the name of a call for ${taken.offer}; leave out one of them`,
    );
}

function refuseRemote(schema: unknown, field: string): void {
  if (schema !== undefined && hasRemoteReference(schema as Json)) {
    throw new AppError("MANIFEST_INVALID", `${field} refers to a remote schema; put it into $defs`);
  }
}

function checkWorkflow(spec: WorkflowManifest): void {
  const nodes = workflowNodes(spec);
  const ids = new Set(nodes.map((node) => node.id));
  const values = [...nodes.flatMap((node) => [node.args ?? {}, node.prompt ?? ""]), (spec.output ?? {}) as Json];
  for (const path of values.flatMap((value) => references(value))) {
    const [root, step, output] = path.split(".");
    const good = root === "input" || (root === "steps" && ids.has(step ?? "") && output === "output");
    if (!good)
      throw new AppError("MANIFEST_INVALID", `\${${path}} refers to nothing; write input... or steps.ID.output...`);
  }
}

/** Reads a file of manifests. Throws MANIFEST_INVALID with every fault found. */
export function readManifests(text: string): Manifest[] {
  if (Buffer.byteLength(text) > LIMITS.manifest_bytes_max) {
    throw new AppError("PAYLOAD_TOO_LARGE", `Manifests are larger than ${LIMITS.manifest_bytes_max} bytes`);
  }
  const reader = new Reader(text);
  const manifests = reader.read();
  const seen = new Set<string>();
  for (const { kind, name, line } of manifests) {
    if (seen.has(`${kind}/${name}`))
      reader.errors.push({ pointer: "/metadata/name", line, message: `${kind} ${name} is in the file twice` });
    seen.add(`${kind}/${name}`);
  }
  if (reader.errors.length > 0) {
    const [first] = reader.errors;
    const where = `line ${first?.line ?? 1}, ${first?.pointer || "/"}`;
    throw new AppError("MANIFEST_INVALID", `${where}: ${first?.message}`, { errors: reader.errors });
  }
  if (manifests.length === 0) throw new AppError("MANIFEST_INVALID", "There are no manifests in the file");
  return manifests;
}

/** The policies of a manifest text, as one policy that can decide. Throws MANIFEST_INVALID. */
export function draftPolicy(text: string): Policy {
  const manifests = readManifests(text).filter((manifest) => manifest.kind === "Policy");
  if (manifests.length === 0) throw new AppError("MANIFEST_INVALID", "There is no Policy in the text");
  const policies = manifests.map(({ name, spec }) => ({
    name,
    version: 0,
    rules: policyRules(spec as PolicyManifest),
  }));
  return new Policy({ policies });
}
