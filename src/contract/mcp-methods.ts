// What MCP servers offer besides tools: resources, prompts, and completions of what is asked of these. Asking for them is a call
// like that of a tool, under policy, budget and approval, recorded and replayed: SERVER.read_resource, and so on. Source: Model
// Context Protocol 2026-07-28, server/resources, server/prompts and server/utilities/completion.
import type { JsonObject } from "../kit/json.ts";

export const MCP_OFFERS = ["resources", "prompts", "completions"] as const;
export type McpOffer = (typeof MCP_OFFERS)[number];

export interface McpMethod {
  /** What it is called in policies and journals, after the name of the server. */
  readonly name: string;
  /** What it is in the protocol. */
  readonly method:
    | "resources/list"
    | "resources/templates/list"
    | "resources/read"
    | "prompts/list"
    | "prompts/get"
    | "completion/complete";
  /** The manifest has to ask for it. */
  readonly offer: McpOffer;
  readonly description: string;
  readonly input_schema: JsonObject;
}

const NOTHING: JsonObject = { type: "object", properties: {}, additionalProperties: false };
const ARGUMENTS: JsonObject = { type: "object", additionalProperties: { type: "string" } };
const text = (description: string): JsonObject => ({ type: "string", minLength: 1, description });

export const MCP_METHODS: readonly McpMethod[] = [
  {
    name: "list_resources",
    method: "resources/list",
    offer: "resources",
    description: "Lists the resources of this server.",
    input_schema: NOTHING,
  },
  {
    name: "list_resource_templates",
    method: "resources/templates/list",
    offer: "resources",
    description: "Lists the templates of resources of this server.",
    input_schema: NOTHING,
  },
  {
    name: "read_resource",
    method: "resources/read",
    offer: "resources",
    description: "Reads one resource of this server.",
    input_schema: {
      type: "object",
      properties: { uri: text("URI of the resource, as it is listed or made from a template.") },
      required: ["uri"],
      additionalProperties: false,
    },
  },
  {
    name: "list_prompts",
    method: "prompts/list",
    offer: "prompts",
    description: "Lists the prompts of this server.",
    input_schema: NOTHING,
  },
  {
    name: "get_prompt",
    method: "prompts/get",
    offer: "prompts",
    description: "Gets one prompt of this server, filled with arguments.",
    input_schema: {
      type: "object",
      properties: {
        name: text("Name of the prompt, as it is listed."),
        arguments: ARGUMENTS,
      },
      required: ["name"],
      additionalProperties: false,
    },
  },
  {
    name: "complete",
    method: "completion/complete",
    offer: "completions",
    description: "Completes an argument of a prompt, or of a template of resources, of this server.",
    input_schema: {
      type: "object",
      properties: {
        ref: {
          type: "object",
          properties: {
            type: { enum: ["ref/prompt", "ref/resource"] },
            name: text("Name of the prompt, as it is listed."),
            uri: text("Template of the resources, as it is listed."),
          },
          required: ["type"],
        },
        argument: {
          type: "object",
          properties: { name: { type: "string" }, value: { type: "string", description: "What it begins with." } },
          required: ["name", "value"],
        },
        context: { type: "object", properties: { arguments: ARGUMENTS } },
      },
      required: ["ref", "argument"],
      additionalProperties: false,
    },
  },
];
