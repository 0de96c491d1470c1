// Runs tools of MCP servers, and asks for their resources and prompts, through the port; how sessions work is src/mcp's business.
import type { JobOutcome, ToolJob } from "../contract/jobs.ts";
import type { McpMethod } from "../contract/mcp-methods.ts";
import { McpCallError } from "../contract/tools.ts";
import type { McpServer, McpTools } from "../contract/tools.ts";
import { JobError } from "./pool.ts";
import type { JobContext } from "./pool.ts";

export async function executeMcp(job: ToolJob, tools: McpTools, context: JobContext): Promise<JobOutcome> {
  const { tool, args, idempotency_key } = job;
  const { server, method } = tool.config;
  const exchange = {
    server: server as unknown as McpServer,
    timeout_ms: tool.timeout_ms,
    signal: context.signal,
  };
  try {
    const { result, is_error } =
      method === undefined
        ? await tools.call({
            ...exchange,
            tool: String(tool.config["tool"]),
            digest: String(tool.config["definition"]),
            args,
            idempotency_key,
            onProgress: (note) => context.say("note", note),
          })
        : await tools.ask({ ...exchange, method: method as McpMethod["method"], params: args });
    return is_error ? { ok: true, kind: "tool", result, is_error } : { ok: true, kind: "tool", result };
  } catch (error) {
    if (!(error instanceof McpCallError)) throw error;
    const permanent = ["definition_changed", "mcp_unknown_tool", "mcp_refused"].includes(error.code);
    const kind = permanent ? "permanent" : error.sent ? "unknown_outcome" : "transient";
    throw new JobError({ class: kind, code: error.code, message: error.message }, error);
  }
}
