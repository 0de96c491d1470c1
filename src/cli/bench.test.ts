import { Command } from "commander";
import { expect, test } from "vitest";
import { addBench } from "./bench.ts";

test.each([
  [["nonsense"], "there are W1,"],
  [["W1", "--passes", "0"], "a whole number, 1 at least"],
  [["W1", "--passes", "many"], "a whole number, 1 at least"],
  [["W6", "--warmup", "-1"], "a whole number, 0 at least"],
  [["W1", "--peers", "restate,other"], "there are restate, dbos, bullmq"],
])("%j is refused before anything is measured", async (args, says) => {
  const root = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
  addBench(root);
  for (const command of root.commands) command.exitOverride().configureOutput({ writeErr: () => undefined });
  await expect(root.parseAsync(["bench", ...args], { from: "user" })).rejects.toThrow(says);
});
