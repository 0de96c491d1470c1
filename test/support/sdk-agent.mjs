// An agent that captures itself: the providers' client, a tool, a retrieval, steps in parallel. argv: question, how it ends.
import { startCapture } from "../../dist/sdk/capture/index.js";

const [question = "What is new?", ending = "close"] = process.argv.slice(2);
const say = (text) => process.stdout.write(`${text}\n`);
const capture = startCapture({ agent: "self", onProblem: (problem) => process.stderr.write(`${problem}\n`) });
const { default: OpenAI } = await import("openai");
const client = capture.client(new OpenAI({ maxRetries: 0, apiKey: "k", baseURL: process.env.MODEL_URL }));

const ask = async (content) => {
  const messages = [{ role: "user", content }];
  const answer = await client.chat.completions.create({ model: "large-1", messages });
  return answer.choices[0].message.content;
};

await capture.run({ input: question }, async (run) => {
  const documents = await run.retrieval({ retriever: "docs", query: question, top_k: 2 }, async () => {
    say("retrieving");
    return [{ id: `d${Date.now()}`, score: 0.9 }];
  });
  say(documents[0].id);
  const [left, right] = await Promise.all([
    run.step("left", () => ask(`left ${question}`)),
    run.step("right", () => ask(`right ${question}`)),
  ]);
  say(left);
  say(right);
  const result = await run.tool("clock.now", { about: question, zone: "UTC" }, async () => {
    say("working");
    return { at: Date.now() };
  });
  say(JSON.stringify(result));
  try {
    await run.tool("shelf.find", { n: 1 }, async () => {
      throw new Error(`no shelf at ${Date.now()}`);
    });
  } catch (error) {
    say(error.message);
  }
  // A client as the protocol's libraries have it.
  const shelf = capture.mcp(
    {
      callTool: async () => ({ content: [] }),
      listTools: async () => {
        say("listing");
        return { tools: [{ name: "find", description: `as of ${Date.now()}` }] };
      },
      listResources: async () => ({ resources: [{ uri: `shelf:${Date.now()}` }] }),
      readResource: async ({ uri }) => {
        say("reading");
        return { contents: [{ uri, text: `read at ${Date.now()}` }] };
      },
    },
    "shelf",
  );
  say((await shelf.listTools()).tools[0].description);
  const [first] = (await shelf.listResources()).resources;
  say((await shelf.readResource({ uri: "shelf:first" })).contents[0].text + first.uri);
  if (ending === "exit") process.exit(3);
  return "done";
});
await capture.close();
