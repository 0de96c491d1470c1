// Tells people that an approval waits: a webhook, if one is set. The terminal is told by the CLI, which listens to the
// same commits. Delivery is best effort here; the approval itself is in the journal and in the list.
import { derivedId } from "../kit/ids.ts";
import { messageOf } from "../contract/errors.ts";
import { idBytes, PREFIXES } from "../contract/ids.ts";
import type { Log, Net } from "../contract/ports.ts";
import type { Commit } from "../orchestrator/engine.ts";

export interface Announcement {
  readonly approval_id: string;
  readonly run_id: string;
  readonly step: number;
  readonly reason: string;
  readonly expires_us: number;
}

/** Approvals that a commit asked for. */
export function announcementsOf(commit: Commit): Announcement[] {
  return commit.drafts
    .filter((draft) => draft.type === "human.approval_requested")
    .map((draft) => ({
      approval_id: derivedId(PREFIXES.approval, idBytes("run", commit.run_id), Number(draft.data["number"])),
      run_id: commit.run_id,
      step: draft.step ?? 0,
      reason: String(draft.data["reason"]),
      expires_us: Number(draft.data["expires"]),
    }));
}

const WEBHOOK_TIMEOUT_MS = 10_000;

export function announceApprovals(
  commit: Commit,
  options: { net: Pick<Net, "fetch">; log: Log; webhook: string | null; private_origins: readonly string[] },
): void {
  const { webhook, net, log } = options;
  if (webhook === null) return;
  const policy = {
    private_origins: [...options.private_origins, new URL(webhook).origin],
    response_bytes_max: 64 * 1024,
  };
  for (const approval of announcementsOf(commit)) {
    const body = JSON.stringify({ type: "approval.requested", ...approval });
    const init = {
      method: "POST",
      body,
      headers: { "content-type": "application/json" },
      signal: AbortSignal.timeout(WEBHOOK_TIMEOUT_MS),
    };
    net.fetch(webhook, init, policy).then(
      (response) => {
        if (!response.ok) log.warn("approval.webhook", { approval_id: approval.approval_id, status: response.status });
      },
      (error: unknown) => log.warn("approval.webhook", { approval_id: approval.approval_id, error: messageOf(error) }),
    );
  }
}
