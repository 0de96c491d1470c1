// What a process that executes jobs has of the world outside: files, network, secrets, MCP servers. The control plane and
// workers share it.
import { readFile } from "node:fs/promises";
import path from "node:path";
import { parseJson } from "../kit/json.ts";
import type { Clock } from "../kit/clock.ts";
import { LocalSecrets } from "../adapters/files/secrets.ts";
import { EgressNet } from "../adapters/net/net.ts";
import { systemRandom } from "../adapters/system/system.ts";
import { AppError } from "../contract/errors.ts";
import type { Log, Secrets } from "../contract/ports.ts";
import { McpClients } from "../mcp/client.ts";
import { createExecutor } from "../worker/execute.ts";
import type { ExecuteDeps } from "../worker/execute.ts";
import type { Execute } from "../worker/pool.ts";
import { readRecording } from "../worker/recorded-model.ts";
import type { RecordedAnswers } from "../worker/recorded-model.ts";
import { secretEnvironment } from "./config.ts";
import type { Config } from "./config.ts";
import { VERSION } from "./version.ts";

function recordings(folder: string | null): (name: string) => Promise<RecordedAnswers> {
  const known = new Map<string, Promise<RecordedAnswers>>();
  const read = async (name: string) => {
    if (folder === null || path.basename(name) !== name)
      throw new AppError("NOT_FOUND", `There is no recording ${name}`);
    const text = await readFile(path.join(folder, `${name}.json`), "utf8").catch((cause) => {
      throw new AppError("NOT_FOUND", `There is no recording ${name} in ${folder}`, { cause });
    });
    return readRecording(parseJson(text));
  };
  return (name) => {
    let found = known.get(name);
    if (!found) known.set(name, (found = read(name)));
    return found;
  };
}

export interface Outside {
  readonly net: EgressNet;
  readonly secrets: Secrets;
  readonly mcp: McpClients;
  readonly execute: Execute;
}

/** The executor and what it needs; large inputs and outputs go through `blobs`. */
export function outsideOf(config: Config, log: Log, clock: Clock, blobs: ExecuteDeps["blobs"]): Outside {
  const secrets = new LocalSecrets({ env: secretEnvironment(), folder: path.join(config.data, "secrets") });
  const net = new EgressNet();
  const { private_origins } = config;
  const mcp = new McpClients({ net, secrets, clock, log, private_origins, version: VERSION });
  const recording = recordings(config.recordings);
  const execute = createExecutor({ net, secrets, blobs, clock, random: systemRandom, mcp, private_origins, recording });
  return { net, secrets, mcp, execute };
}
