// Counts requests by endpoint and Idempotency-Key. Does not deduplicate: it is a witness, not a service.
import { createServer } from "node:http";
const delay = Number(process.argv[2] ?? 0);
const counts = { once: {}, idem: {} };
const server = createServer((req, res) => {
  const done = (value) => {
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify(value));
  };
  if (req.url === "/counts") return done(counts);
  const kind = req.url === "/once" ? "once" : "idem";
  const key = String(req.headers["idempotency-key"]);
  counts[kind][key] = (counts[kind][key] ?? 0) + 1;
  req.resume();
  setTimeout(() => done({ n: counts[kind][key] }), delay);
});
server.listen(0, "127.0.0.1", () => process.stdout.write(`${server.address().port}\n`));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
