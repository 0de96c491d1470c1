// A small agent as somebody else would write it: the providers' own clients, nothing of ours. argv: api, question, turns.
const [api = "chat", question = "What is new?", turns = "1"] = process.argv.slice(2);
const say = (text) => process.stdout.write(`${text}\n`);

async function chat(stream) {
  const { default: OpenAI } = await import("openai");
  const client = new OpenAI({ maxRetries: 0 });
  const messages = [{ role: "user", content: question }];
  for (let turn = 0; turn < Number(turns); turn++) {
    const request = { model: "large-1", messages: [...messages] };
    let text = "";
    if (stream)
      for await (const chunk of await client.chat.completions.create({ ...request, stream: true }))
        text += chunk.choices[0].delta.content ?? "";
    else text = (await client.chat.completions.create(request)).choices[0].message.content;
    say(text);
    messages.push({ role: "assistant", content: text }, { role: "user", content: "And then?" });
  }
}

async function claude() {
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  const client = new Anthropic({ maxRetries: 0 });
  const stream = client.messages.stream({
    model: "claude-1",
    max_tokens: 100,
    messages: [{ role: "user", content: question }],
  });
  const message = await stream.finalMessage();
  say(message.content[0].text);
}

async function responses() {
  const { default: OpenAI } = await import("openai");
  const response = await new OpenAI({ maxRetries: 0 }).responses.create({ model: "large-1", input: question });
  say(response.output_text);
}

/** What clients ask besides answers: which models there are, numbers for texts, how many tokens a message has. */
async function others() {
  const { default: OpenAI } = await import("openai");
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  const [openai, anthropic] = [new OpenAI({ maxRetries: 0 }), new Anthropic({ maxRetries: 0 })];
  for await (const { id, owned_by } of openai.models.list()) say(`${id} of ${owned_by}`);
  for await (const { id } of anthropic.models.list()) say(id);
  const { data } = await openai.embeddings.create({ model: "small-1", input: [question, "another text"] });
  say(data.map(({ embedding }) => embedding.slice(0, 3).join(" ")).join("; "));
  const messages = [{ role: "user", content: question }];
  say((await anthropic.messages.countTokens({ model: "claude-1", messages })).input_tokens);
}

async function mcp() {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const client = new Client({ name: "stranger", version: "1" });
  await client.connect(new StreamableHTTPClientTransport(new URL(process.env.QUARTERDECK_MCP_URL)));
  return client;
}

/** Lists what there is to read over MCP, reads these URIs, and says what comes back. */
async function resources() {
  const client = await mcp();
  say((await client.listResources()).resources.map(({ uri }) => uri).join(" "));
  for (const uri of JSON.parse(question)) {
    const said = await client.readResource({ uri }).catch(({ code, message }) => `${code} ${message}`);
    say(`${uri}: ${typeof said === "string" ? said : said.contents[0].text}`);
  }
  await client.close();
}

/** Calls tools over MCP, `name:arguments` each, and says what comes back. */
async function tools() {
  const client = await mcp();
  const { tools: offered } = await client.listTools();
  say(offered.map((tool) => tool.name).join(" "));
  for (const [name, args] of JSON.parse(question)) {
    const { content, isError } = await client.callTool({ name, arguments: args });
    say(`${name}: ${isError ? "error: " : ""}${content[0].text}`);
  }
  await client.close();
}

try {
  await { chat: () => chat(false), stream: () => chat(true), claude, responses, others, resources, tools }[api]();
} catch (error) {
  say(`${error.status}: ${error.message}`);
  process.exit(7);
}
