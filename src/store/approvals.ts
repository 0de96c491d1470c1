// SQL of the approvals that people see.
import { encodeId, uuidBytes } from "../kit/ids.ts";
import type { ApprovalRow } from "../contract/journal.ts";
import type { DbTx } from "../contract/ports.ts";

const COLUMNS = `tenant_id, approval_id, run_id, step, state, tool, shown, binding, requester, approvers_min, created_at_us,
  expires_at_us, resolved_by, resolved_at_us, note`;

const approval = (row: ApprovalRow): ApprovalRow => ({
  ...row,
  tenant_id: encodeId("ten", uuidBytes(row.tenant_id)),
  run_id: encodeId("run", uuidBytes(row.run_id)),
});

export async function getApproval(tx: DbTx, approval_id: string): Promise<ApprovalRow | null> {
  const { rows } = await tx.query<ApprovalRow>({
    text: `select ${COLUMNS} from qd.approvals where tenant_id = qd.tenant() and approval_id = $1`,
    values: [approval_id],
  });
  return rows[0] ? approval(rows[0]) : null;
}

export interface ApprovalFilter {
  readonly state?: string;
  readonly after?: string;
  readonly limit: number;
}

export async function listApprovals(tx: DbTx, filter: ApprovalFilter): Promise<ApprovalRow[]> {
  const { rows } = await tx.query<ApprovalRow>({
    text: `select ${COLUMNS} from qd.approvals where tenant_id = qd.tenant() and ($1::text is null or state = $1)
      and ($2::text is null or approval_id > $2) order by approval_id limit $3`,
    values: [filter.state ?? null, filter.after ?? null, filter.limit],
  });
  return rows.map(approval);
}
