// The example's outside world, for real: an HTTP service for orders and refunds, and an MCP server over streamable HTTP
// for tickets. Prints its addresses as one JSON line. Every refund is appended to a file, so that anybody can count them.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import { z } from "zod";

const ledger = process.argv[2];
const token = process.env["QD_SECRET_DESK"];
const orders = {
  "A-1042": { order_id: "A-1042", customer: "Rosa", item: "teapot", paid_cents: 4900, delivered: "2026-11-12" },
};
const tickets = [{ ticket_id: "T-77", order_id: "A-1042", text: "My teapot arrived in three pieces. Rosa", notes: [] }];
const refunds = new Map();

const send = (res, status, body) => {
  res.writeHead(status, { "content-type": "application/json" });
  res.end(JSON.stringify(body));
};

async function read(req) {
  let text = "";
  for await (const chunk of req) text += chunk;
  return text;
}

const answerOrder = async (req, res) => {
  const order = /^\/orders\/(A-\d{4})$/.exec(req.url ?? "")?.[1];
  if (req.method === "GET" && order) {
    return orders[order] ? send(res, 200, orders[order]) : send(res, 404, { error: "no such order" });
  }
  if (req.method !== "POST" || req.url !== "/refunds") return send(res, 404, { error: "not found" });
  if (req.headers.authorization !== `Bearer ${token}`) return send(res, 401, { error: "wrong token" });
  const key = String(req.headers["idempotency-key"] ?? "");
  const body = JSON.parse(await read(req));
  // The same key is the same refund: a retry pays nothing twice.
  if (!refunds.has(key)) {
    refunds.set(key, { refund_id: `R-${refunds.size + 1}`, ...body });
    appendFileSync(ledger, `${JSON.stringify(refunds.get(key))}\n`);
  }
  send(res, 201, refunds.get(key));
};
const orderServer = createServer((req, res) => void answerOrder(req, res));

function ticketServer() {
  const server = new McpServer({ name: "tickets", version: "1.0.0" });
  const text = (value) => ({ content: [{ type: "text", text: JSON.stringify(value) }] });
  server.registerTool(
    "search",
    { description: "Finds tickets by text.", inputSchema: z.object({ query: z.string() }) },
    async ({ query }) => text(tickets.filter((ticket) => JSON.stringify(ticket).includes(query))),
  );
  server.registerTool(
    "add_note",
    { description: "Adds a note to a ticket.", inputSchema: z.object({ ticket_id: z.string(), note: z.string() }) },
    async ({ ticket_id, note }) => {
      const ticket = tickets.find((candidate) => candidate.ticket_id === ticket_id);
      if (!ticket) return { ...text({ error: "no such ticket" }), isError: true };
      ticket.notes.push(note);
      return text(ticket);
    },
  );
  return server;
}

/** One server for each request: no state is shared between clients. */
const mcp = createMcpHandler(ticketServer);
const answerMcp = async (req, res) => {
  const gone = new AbortController();
  res.on("close", () => gone.abort());
  const headers = Object.entries(req.headers).filter(([, value]) => typeof value === "string");
  const body = req.method === "POST" ? { body: await read(req) } : {};
  const init = { method: req.method, headers, signal: gone.signal, ...body };
  const answer = await mcp.fetch(new Request(`http://${req.headers.host}${req.url}`, init));
  res.writeHead(answer.status, Object.fromEntries(answer.headers));
  if (answer.body) Readable.fromWeb(answer.body).on("error", () => res.destroy()).pipe(res);
  else res.end();
};
const mcpServer = createServer((req, res) => void answerMcp(req, res));

const listen = (server) =>
  new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
const [orderPort, ticketPort] = [await listen(orderServer), await listen(mcpServer)];
process.stdout.write(
  `${JSON.stringify({ orders_url: `http://127.0.0.1:${orderPort}`, tickets_url: `http://127.0.0.1:${ticketPort}/mcp` })}\n`,
);
// The parent's end is our end: standard input closes with it, however it dies.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
