import type { Command } from "commander";
import { systemClock } from "../adapters/system/system.ts";
import { loadConfig } from "../server/config.ts";
import { createLog } from "../server/log.ts";
import { startServer } from "../server/start.ts";
import { announcementsOf } from "../server/announce.ts";
import { globalsOf, stopSignal } from "./context.ts";
import { bold, dim, print, printJson, yellow } from "./output.ts";

const EXIT_DEPENDENCY = 6;

/** `up`: the whole control plane in this process, until it is told to stop. */
export function addUp(root: Command): void {
  root
    .command("up")
    .description("start the control plane")
    .option("--host <host>", "address to listen on")
    .option("--port <port>", "port to listen on (0 = any free one)", Number)
    .option("--config <file>", "configuration file")
    .option("--recordings <folder>", "recordings of recorded models")
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      const {
        host,
        port,
        config: file,
        recordings,
      } = command.opts<{ host?: string; port?: number; config?: string; recordings?: string }>();
      const config = loadConfig({ host, port, config: file, recordings, data: globals.data });
      const log = createLog(systemClock, (line) => process.stderr.write(`${line}\n`));
      const server = await startServer({
        config,
        log,
        onCommit: (commit) => {
          if (globals.json) return;
          for (const approval of announcementsOf(commit)) {
            print(`${yellow("approval needed")} ${bold(approval.approval_id)} ${approval.reason}`);
            print(dim(`  quarterdeck approvals approve ${approval.approval_id} --as SOMEBODY`));
          }
        },
        onFenced: () => process.exit(EXIT_DEPENDENCY),
      });
      if (globals.json) printJson({ url: server.url, ready_ms: server.ready_ms, recovered: server.recovered });
      else {
        print(
          `${bold("quarterdeck")} ready at ${server.url} in ${server.ready_ms} ms; ${server.recovered} open runs go on`,
        );
        print(dim(`  data in ${config.data}; stop with Ctrl-C`));
      }
      await stopSignal();
      await server.close();
    });
}
