import type { StartBacktest } from "../../contract/backtest.ts";
import type { StartFork, StartReplay } from "../../contract/replay.ts";
import { draftPolicy } from "../../orchestrator/manifests.ts";
import type { Handlers } from "../handlers.ts";

export const replayHandlers = {
  startReplay: ({ services, request, seed }) =>
    services.replays.start(request.caller, request.body as unknown as StartReplay, seed),
  getReplay: ({ services, request }) => services.replays.get(request.caller, request.params["id"] ?? ""),
  forkRun: ({ services, request, seed }) =>
    services.replays.fork(request.caller, request.params["id"] ?? "", request.body as unknown as StartFork, seed),
  compareRuns: ({ services, request }) => {
    const { a, b } = request.body as unknown as { a: string; b: string };
    return services.diffs.compare(request.caller, a, b);
  },
  backtestPolicy: ({ services, request }) => {
    const { policy, ...filter } = request.body as unknown as StartBacktest;
    return services.backtests.run(request.caller, draftPolicy(policy), filter);
  },
} satisfies Partial<Handlers>;
