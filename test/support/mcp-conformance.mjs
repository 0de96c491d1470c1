// An MCP server over stdio with the tools, resources and prompts that the protocol's own conformance suite asks for.
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import {
  CallToolRequestSchema,
  CompleteRequestSchema,
  GetPromptRequestSchema,
  ListPromptsRequestSchema,
  ListResourcesRequestSchema,
  ListResourceTemplatesRequestSchema,
  ListToolsRequestSchema,
  McpError,
  ReadResourceRequestSchema,
} from "@modelcontextprotocol/sdk/types.js";

/** One red point, as PNG. */
const IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/** A WAV file without a sound. */
const AUDIO = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";
const text = (said) => ({ type: "text", text: said });
const image = { type: "image", data: IMAGE, mimeType: "image/png" };
const resource = {
  uri: "test://embedded-resource",
  mimeType: "text/plain",
  text: "This is an embedded resource content.",
};
const ANSWERS = {
  test_simple_text: { content: [text("This is a simple text response for testing.")] },
  test_image_content: { content: [image] },
  test_audio_content: { content: [{ type: "audio", data: AUDIO, mimeType: "audio/wav" }] },
  test_embedded_resource: { content: [{ type: "resource", resource }] },
  test_multiple_content_types: {
    content: [
      text("Multiple content types test:"),
      image,
      {
        type: "resource",
        resource: { uri: "test://mixed", mimeType: "application/json", text: '{"test":"data","value":123}' },
      },
    ],
  },
  test_error_handling: { content: [text("This tool intentionally returns an error for testing")], isError: true },
  json_schema_2020_12_tool: { content: [text("ok")] },
  test_custom_headers: { content: [text("ok")] },
};
const SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  $defs: {
    address: {
      $anchor: "addressDef",
      type: "object",
      properties: { street: { type: "string" }, city: { type: "string" } },
    },
  },
  properties: {
    name: { type: "string" },
    address: { $ref: "#/$defs/address" },
    contactMethod: { type: "string", enum: ["phone", "email"] },
    phone: { type: "string" },
    email: { type: "string" },
  },
  allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
  if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
  // As text: an object with a `then` of its own is taken for a promise.
  ...JSON.parse('{"then": {"required": ["phone"]}}'),
  else: { required: ["email"] },
  additionalProperties: false,
};
const HEADERS = { type: "object", properties: { region: { type: "string", "x-mcp-header": "Region" } } };
const SCHEMAS = { json_schema_2020_12_tool: SCHEMA, test_custom_headers: HEADERS };

const server = new Server(
  { name: "conformance", version: "1" },
  { capabilities: { tools: {}, resources: {}, prompts: {}, completions: {} } },
);
server.setRequestHandler(ListToolsRequestSchema, () => ({
  tools: Object.keys(ANSWERS).map((name) => ({
    name,
    description: `What the suite calls ${name}.`,
    inputSchema: SCHEMAS[name] ?? { type: "object", properties: {} },
  })),
}));
server.setRequestHandler(CallToolRequestSchema, ({ params }) => ANSWERS[params.name]);

const RESOURCES = {
  "test://static-text": { mimeType: "text/plain", text: "This is the content of the static text resource." },
  "test://static-binary": { mimeType: "image/png", blob: IMAGE },
};
const TEMPLATE = /^test:\/\/template\/([^/]+)\/data$/;
const read = (uri) => {
  if (RESOURCES[uri]) return RESOURCES[uri];
  const id = TEMPLATE.exec(uri)?.[1];
  if (id === undefined) throw new McpError(-32_002, "Resource not found", { uri });
  return { mimeType: "application/json", text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) };
};
server.setRequestHandler(ListResourcesRequestSchema, ({ params }) => {
  // Two pages.
  const [first, ...others] = Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri, mimeType }));
  return params?.cursor === undefined ? { resources: [first], nextCursor: "2" } : { resources: others };
});
server.setRequestHandler(ListResourceTemplatesRequestSchema, () => ({
  resourceTemplates: [{ uriTemplate: "test://template/{id}/data", name: "data", mimeType: "application/json" }],
}));
server.setRequestHandler(ReadResourceRequestSchema, ({ params: { uri } }) => ({ contents: [{ uri, ...read(uri) }] }));

const user = (content) => ({ role: "user", content });
/** Name, arguments, and what it says. */
const PROMPTS = [
  ["test_simple_prompt", [], () => [user(text("This is a simple prompt for testing."))]],
  [
    "test_prompt_with_arguments",
    ["arg1", "arg2"],
    ({ arg1, arg2 }) => [user(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
  ],
  [
    "test_prompt_with_embedded_resource",
    ["resourceUri"],
    ({ resourceUri: uri }) => [
      user({
        type: "resource",
        resource: { uri, mimeType: "text/plain", text: "Embedded resource content for testing." },
      }),
      user(text("Please process the embedded resource above.")),
    ],
  ],
  ["test_prompt_with_image", [], () => [user(image), user(text("Please analyze the image above."))]],
];
server.setRequestHandler(ListPromptsRequestSchema, () => ({
  prompts: PROMPTS.map(([name, of]) => ({
    name: String(name),
    description: `What the suite calls ${String(name)}.`,
    arguments: of.map((one) => ({ name: one, required: true })),
  })),
}));
server.setRequestHandler(GetPromptRequestSchema, ({ params }) => {
  const [, , say] = PROMPTS.find(([name]) => name === params.name) ?? [];
  if (!say) throw new McpError(-32_602, `There is no prompt ${params.name}`);
  return { messages: say(params.arguments ?? {}) };
});
server.setRequestHandler(CompleteRequestSchema, ({ params: { ref, argument, context } }) => {
  const of = ref.type === "ref/prompt" ? ref.name : ref.uri;
  const values = [`${argument.value} of ${of}`, JSON.stringify(context?.arguments ?? {})];
  return { completion: { values, total: 2, hasMore: false } };
});
await server.connect(new StdioServerTransport());
