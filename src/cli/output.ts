// Printing. Commands return data; this decides between JSON and words. Colour only on a terminal that wants it.
import { formatUsd } from "../kit/money.ts";
import { AppError, ERRORS, isAppError, messageOf } from "../contract/errors.ts";
import type { Event } from "../contract/events.ts";
import type { Approval, Run } from "../contract/runs.ts";

const colour = process.stdout.isTTY && process.env["NO_COLOR"] === undefined;
const paint = (code: number) => (text: string) => (colour ? `\u001b[${code}m${text}\u001b[0m` : text);
export const bold = paint(1);
export const dim = paint(2);
export const red = paint(31);
export const green = paint(32);
export const yellow = paint(33);
export const cyan = paint(36);

// Control characters from models and tools must not reach the terminal.
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/g;
export function safe(text: string): string {
  return text.replaceAll(CONTROL, "\ufffd");
}

export function print(line = ""): void {
  process.stdout.write(`${line}\n`);
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/** Columns of text, padded to their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? "").length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd();
  return [bold(line(head)), ...rows.map((row) => safe(line(row)))].join("\n");
}

const STATE: Record<string, (text: string) => string> = {
  succeeded: green,
  running: cyan,
  waiting: yellow,
  queued: cyan,
};
export const stateText = (state: string) => (STATE[state] ?? red)(state);

export function runLines(run: Run): string {
  return [
    `${bold(run.run_id)}  ${stateText(run.state)}${run.reason ? ` (${safe(run.reason)})` : ""}`,
    `  ${run.kind} ${run.target}, env ${run.env}, started by ${run.requester} at ${run.created_at}`,
    `  ${run.steps} steps, ${run.tokens} tokens, ${formatUsd(run.cost_micro_usd)}`,
  ].join("\n");
}

export function approvalLines(approval: Approval): string {
  return [
    `${bold(approval.approval_id)}  ${stateText(approval.state === "pending" ? "waiting" : approval.state)}  ${approval.tool}`,
    `  run ${approval.run_id}, step ${approval.step}, asked by ${approval.requester}, expires ${approval.expires_at}`,
    `  ${safe(JSON.stringify(approval.shown))}`,
  ].join("\n");
}

const short = (value: unknown, max: number): string => {
  const text = typeof value === "string" ? value : JSON.stringify(value ?? null);
  const line = safe(text.replaceAll(/\s+/g, " "));
  return line.length > max ? `${line.slice(0, max - 1)}…` : line;
};

/** One event as a line of the story; null for events that only matter to machines. */
export function eventLine(event: Event): string | null {
  const data: Record<string, unknown> = event.data;
  const cost =
    typeof data["cost_micro_usd"] === "number" && data["cost_micro_usd"] > 0
      ? dim(` ${formatUsd(data["cost_micro_usd"])}`)
      : "";
  const mark = (symbol: string, text: string) => `${dim(String(event.seq).padStart(4))}  ${symbol} ${text}`;
  switch (event.type) {
    case "run.started":
      return mark("▶", `${bold("run started")} ${event.run_id}`);
    case "model.completed": {
      const calls = Array.isArray(data["tool_calls"]) ? data["tool_calls"].length : 0;
      return mark("◆", `${cyan("model")} ${short(data["content"] ?? `${calls} tool calls`, 110)}${cost}`);
    }
    case "tool.requested":
      return mark("→", `${short(data["tool"], 40)} ${dim(short(data["args"], 80))}`);
    case "tool.completed":
      return mark("←", `${dim(short(data["result"], 100))}${cost}`);
    case "tool.denied":
    case "model.denied":
      return mark(
        "✕",
        `${red("denied")} ${short(data["message"] ?? `${String(data["model"])}: ${String(data["reason"])}`, 100)}`,
      );
    case "tool.failed":
    case "model.failed":
      return mark("!", `${red("failed")} ${short(data["code"], 40)}: ${short(data["message"], 100)}`);
    case "step.in_doubt":
      return mark(
        "?",
        `${yellow("in doubt")} step ${event.step_id ?? ""}: the effect may have happened; see quarterdeck resolve`,
      );
    case "step.retry_scheduled":
      return mark("↻", dim("will be tried again"));
    case "human.approval_requested":
      return mark("‖", `${yellow("approval needed")}: ${short(data["reason"], 80)}`);
    case "human.approval_resolved":
      return mark("✓", `${short(data["decision"], 20)} by ${bold(short(data["by"], 60))}`);
    case "privacy.overridden":
      return mark("!", `${yellow("privacy overridden")}: ${short(data["reason"], 100)}`);
    case "journal.amended":
      return mark("!", `${yellow("amended")}: ${short(data["note"], 100)}`);
    case "human.input":
      return mark("»", `input ${short(data["content"], 100)}`);
    case "budget.warned":
    case "budget.exceeded":
      return mark("$", `${yellow(event.type)} ${short(data["budget"], 60)}`);
    case "run.waiting":
      return mark("…", yellow(`waiting for ${short(data["reason"], 40)}`));
    default:
      return /^run\.(succeeded|failed|cancelled|timed_out|budget_exceeded|policy_blocked)$/.test(event.type)
        ? mark("■", ending(event))
        : null;
  }
}

function ending(event: Event): string {
  const data: Record<string, unknown> = event.data;
  const state = event.type.slice("run.".length);
  const detail =
    state === "succeeded" ? data["output"] : `${String(data["code"] ?? "")} ${String(data["message"] ?? "")}`;
  return `${stateText(state)} ${short(detail, 400)}`;
}

/** Prints an error and returns the exit code that the error table gives it. */
export function report(error: unknown, json: boolean): number {
  const known = isAppError(error) ? error : new AppError("INTERNAL_ERROR", messageOf(error), { cause: error });
  const row = ERRORS[known.code];
  if (json) {
    process.stderr.write(
      `${JSON.stringify({ code: known.code, message: known.message, remedy: row.remedy, errors: known.errors, details: known.details })}\n`,
    );
    return row.exit;
  }
  process.stderr.write(`${red("error")} ${known.code}: ${safe(known.message)}\n`);
  for (const fault of known.errors.slice(0, 20)) {
    process.stderr.write(
      `  ${fault.line === undefined ? "" : `line ${fault.line} `}${fault.pointer || "/"}: ${safe(fault.message)}\n`,
    );
  }
  process.stderr.write(`  ${dim(row.remedy)}\n`);
  return row.exit;
}
