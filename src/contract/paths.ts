// Where things are served, and what names look like. No schema library here: programs that capture themselves load this.

/** Below this are the operations of the route table. */
export const API_PREFIX = "/api/v1";
/** Below this come a provider's name and its own path; `runs/RUN` before them adds the calls to a run. */
export const PROXY_PREFIX = "/proxy";
/** The MCP gateway: one endpoint (streamable HTTP) for the tools of the registry; `/runs/RUN` behind it adds to a run. */
export const MCP_PREFIX = "/mcp";
/** Tools that read runs, events, differences. */
export const MCP_OBSERVE = "/mcp/observe";
/** Below this come the environment and the name of a trigger: where its webhooks are sent to. */
export const HOOKS_PREFIX = "/hooks";
/** Names of resources and rules: what users type, so only what is safe in a path, a log and a shell. */
export const NAME_PATTERN = "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$";
