// An agent that captures itself and whose model calls end badly: refused, refused once, broken off, given up, never answered;
// over the wire and through the Vercel AI SDK. It says what it saw of each.
import { startCapture } from "../../dist/sdk/capture/index.js";

const say = (text) => process.stdout.write(`${text}\n`);
const capture = startCapture({ agent: "unlucky", onProblem: (problem) => process.stderr.write(`${problem}\n`) });
const { default: OpenAI } = await import("openai");
const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
const { generateText, streamText, wrapLanguageModel } = await import("ai");

const openai = (baseURL, maxRetries) => capture.client(new OpenAI({ maxRetries, apiKey: "k", baseURL }));
const ask = (content) => ({ model: "large-1", messages: [{ role: "user", content }] });
const provider = createOpenAICompatible({ name: "p", baseURL: process.env.MODEL_URL, apiKey: "k" });
const model = wrapLanguageModel({ model: provider("large-1"), middleware: capture.middleware() });

/** What became of a call, in words that do not depend on the moment. */
async function tell(what, fn) {
  try {
    say(`${what}: ${await fn()}`);
  } catch (error) {
    const { name, status, statusCode, message } = error;
    say(`${what} failed: ${name} ${status ?? statusCode ?? ""} ${message}`);
  }
}

async function read(chunks, textOf) {
  let text = "";
  try {
    for await (const chunk of chunks) text += textOf(chunk);
  } catch (error) {
    return `${text} (${error.name})`;
  }
  return text;
}
const chunkText = (chunk) => chunk.choices[0]?.delta.content ?? "";

async function overTheWire() {
  const { MODEL_URL, NOBODY_URL } = process.env;
  const plain = openai(MODEL_URL, 0);
  const stream = { ...ask("wire breaks off"), stream: true };
  const text = (answer) => answer.choices[0].message.content;
  await tell("refused", async () => text(await plain.chat.completions.create(ask("wire overload"))));
  const twice = openai(MODEL_URL, 2);
  await tell("once", async () => text(await twice.chat.completions.create(ask("wire overload once"))));
  await tell("broken", async () => read(await plain.chat.completions.create(stream), chunkText));
  const signal = () => ({ signal: AbortSignal.timeout(300) });
  await tell("late", async () => text(await plain.chat.completions.create(ask("wire late"), signal())));
  const slow = { ...ask("wire slow"), stream: true };
  await tell("slow", async () => read(await plain.chat.completions.create(slow, signal()), chunkText));
  await tell("nobody", async () => text(await openai(NOBODY_URL, 1).chat.completions.create(ask("wire anybody"))));
  await tell("no JSON", async () => text(await plain.chat.completions.create(ask("wire nonsense"))));
}

async function throughTheSdk() {
  const quiet = { model, onError: () => undefined };
  const given = (prompt, maxRetries = 0) => generateText({ model, prompt, maxRetries }).then(({ text }) => text);
  await tell("refused", () => given("sdk overload"));
  await tell("once", () => given("sdk overload once", 2));
  const parts = async (options) => {
    const seen = [];
    for await (const part of streamText({ ...quiet, maxRetries: 0, ...options }).fullStream) {
      if (part.type === "text-delta") seen.push(part.text);
      else if (part.type === "error") seen.push(`(${part.error.name} ${part.error.statusCode ?? ""})`);
      else if (part.type === "abort") seen.push("(abort)");
    }
    return seen.join("");
  };
  await tell("broken", () => parts({ prompt: "sdk breaks off" }));
  await tell("stream refused", () => parts({ prompt: "sdk overload" }));
  await tell("slow", () => parts({ prompt: "sdk slow", abortSignal: AbortSignal.timeout(300) }));
  const abortSignal = AbortSignal.timeout(300);
  await tell("late", () => generateText({ model, prompt: "sdk late", maxRetries: 0, abortSignal }));
}

await capture.run({}, overTheWire);
await capture.run({}, throughTheSdk);
await capture.close();
