// A model provider that answers at once, whole or as a stream of 50 chunks; a process of its own. Prints its address.
import { createServer } from "node:http";

const CHUNKS = 50;
const USAGE = { prompt_tokens: 20, completion_tokens: 10, total_tokens: 30 };
const WHOLE = JSON.stringify({
  id: "x",
  object: "chat.completion",
  model: "m-1",
  choices: [{ index: 0, message: { role: "assistant", content: "word ".repeat(CHUNKS) }, finish_reason: "stop" }],
  usage: USAGE,
});
const part = (choices, usage) =>
  `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", model: "m-1", choices, usage })}\n\n`;
const STREAM = [
  ...Array.from({ length: CHUNKS }, () => part([{ index: 0, delta: { content: "word " }, finish_reason: null }], null)),
  part([{ index: 0, delta: {}, finish_reason: "stop" }], null),
  part([], USAGE),
  "data: [DONE]\n\n",
];

const server = createServer((req, res) => {
  let text = "";
  req.on("data", (chunk) => (text += chunk.toString()));
  req.on("end", () => {
    if (!text.includes('"stream":true')) {
      res.writeHead(200, { "content-type": "application/json" });
      return void res.end(WHOLE);
    }
    res.writeHead(200, { "content-type": "text/event-stream" });
    for (const chunk of STREAM) res.write(chunk);
    res.end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
