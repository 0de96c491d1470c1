// The peers' side of the line protocol: "ID WORKLOAD" in, "done ID" or "failed ID why" out.
import { createInterface } from "node:readline";

export function serve(run, close) {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const [id, workload] = line.split(" ");
    run(id, workload).then(
      () => process.stdout.write(`done ${id}\n`),
      (error) => process.stdout.write(`failed ${id} ${String(error?.message ?? error).replaceAll("\n", " ")}\n`),
    );
  });
  lines.on("close", () => void close().then(() => process.exit(0)));
  process.stdout.write("ready\n");
}
