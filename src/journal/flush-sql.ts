// The statement of a flush, in six forms: of one group or of several at once, each with no more than what changes. It does all
// at once: fence, append, run summaries, approvals, budgets. The fence is `update groups ... where shard_epoch = e and head =
// old`: no row there, nothing is written. Of several groups all fences hold, or nothing is written.

interface Form {
  readonly fence: string;
  /** The group of a row. */
  readonly group: { run: string; budget: string };
  readonly append: string;
  /** Number of the first parameter after the rows. */
  readonly next: number;
}

const ONE: Form = {
  fence: `with fence as (
    update qd.groups set head = $4::bigint + $5::int where grp = $1 and shard_epoch = $2 and head = $4 returning 1
  )`,
  group: { run: "$1::int", budget: "$1::int" },
  append: `
  insert into qd.journal (grp, off, run_id, tenant_id, first_seq, last_seq, at, body, chain)
  select $1::int, $4::bigint + t.ord, t.run_id, t.tenant_id, t.first_seq, t.last_seq, $3, t.body, t.chain
  from fence, unnest($6::uuid[], $7::uuid[], $8::int4[], $9::int4[], $10::bytea[], $11::bytea[], $12::int4[])
    as t(run_id, tenant_id, first_seq, last_seq, body, chain, ord)`,
  next: 13,
};

/** Groups with epochs, heads and counts; then for each row its time in milliseconds, what it is, its group and its offset. */
const MANY: Form = {
  fence: `with want as materialized (
    select * from unnest($1::int4[], $2::int8[], $4::int8[], $5::int4[]) as w(grp, shard_epoch, head, n)
  ), held as materialized (
    select g.grp from qd.groups g join want w on g.grp = w.grp and g.shard_epoch = w.shard_epoch and g.head = w.head
    order by g.grp for update of g
  ), fence as (
    update qd.groups g set head = w.head + w.n from want w
    where g.grp = w.grp and (select count(*) from held) = (select count(*) from want) returning 1
  )`,
  group: { run: "grp", budget: "t.grp" },
  append: `
  insert into qd.journal (grp, off, run_id, tenant_id, first_seq, last_seq, at, body, chain)
  select t.grp, t.off, t.run_id, t.tenant_id, t.first_seq, t.last_seq,
    timestamptz 'epoch' + t.at_ms * interval '1 millisecond', t.body, t.chain
  from unnest($6::uuid[], $7::uuid[], $8::int4[], $9::int4[], $10::bytea[], $11::bytea[], $12::int4[], $13::int8[], $3::int8[])
    as t(run_id, tenant_id, first_seq, last_seq, body, chain, grp, off, at_ms)
  where exists (select 1 from fence)`,
  next: 14,
};

const runs = ({ group, next }: Form) => `, summaries as (
    insert into qd.runs as r (tenant_id, run_id, project_id, grp, kind, target, env, state, reason, requester,
      created_at_us, updated_at_us, steps, cost_micro_usd, tokens, retry_of, source_run_id, external_id, sealed)
    select tenant_id, run_id, project_id, ${group.run}, kind, target, env, state, reason, requester,
      created_at_us, updated_at_us, steps, cost_micro_usd, tokens, retry_of, source_run_id, external_id, coalesce(sealed, false)
    from json_to_recordset($${next}::json) as j(tenant_id uuid, run_id uuid, project_id text, kind text, target text, env text,
      state text, reason text, requester text, created_at_us bigint, updated_at_us bigint, steps int, cost_micro_usd bigint,
      tokens bigint, retry_of text, source_run_id text, external_id text, sealed boolean, grp int)
    where exists (select 1 from fence)
    on conflict (run_id) do update set state = excluded.state, reason = excluded.reason,
      updated_at_us = excluded.updated_at_us, steps = excluded.steps, cost_micro_usd = excluded.cost_micro_usd, tokens = excluded.tokens, sealed = excluded.sealed
  ), asked as (
    insert into qd.approvals (tenant_id, approval_id, run_id, step, state, tool, shown, binding, requester, approvers_min,
      created_at_us, expires_at_us, resolved_by, resolved_at_us, note)
    select j.* from json_to_recordset($${next + 1}::json) as j(tenant_id uuid, approval_id text, run_id uuid, step int, state text,
      tool text, shown text, binding text, requester text, approvers_min int, created_at_us bigint, expires_at_us bigint,
      resolved_by text, resolved_at_us bigint, note text)
    where exists (select 1 from fence)
    on conflict (tenant_id, approval_id) do update set state = excluded.state, resolved_by = excluded.resolved_by,
      resolved_at_us = excluded.resolved_at_us, note = excluded.note
  )`;

/** Parameters from the given number on: tenant, budget, period, spent, reserved, spent tokens, reserved tokens, group. */
const budgets = ({ group }: Form, first: number) => {
  const types = ["uuid", "text", "int8", "int8", "int8", "int8", "int8", "int4"];
  const arrays = types.map((type, i) => `$${first + i}::${type}[]`).join(", ");
  return `, budgets as (
    insert into qd.budget_use (grp, tenant_id, budget, period_start_us, spent_micro_usd, reserved_micro_usd, spent_tokens, reserved_tokens)
    select ${group.budget}, t.tenant_id, t.budget, t.period_us, t.spent, t.reserved, t.spent_tokens, t.reserved_tokens
    from unnest(${arrays}) as t(tenant_id, budget, period_us, spent, reserved, spent_tokens, reserved_tokens, grp)
    where exists (select 1 from fence)
    on conflict (tenant_id, budget, period_start_us, grp) do update set spent_micro_usd = excluded.spent_micro_usd,
      reserved_micro_usd = excluded.reserved_micro_usd, spent_tokens = excluded.spent_tokens, reserved_tokens = excluded.reserved_tokens
  )`;
};

const formsOf = (form: Form, name: string) => ({
  /** A batch without state changes is the hot path: there is nothing to plan but the insert. */
  bare: { name: `${name}_bare`, text: form.fence + form.append },
  hot: { name: `${name}_hot`, text: form.fence + budgets(form, form.next) + form.append },
  full: { name: `${name}_full`, text: form.fence + runs(form) + budgets(form, form.next + 2) + form.append },
});

/** The rows written are the answer: as many as were sent, or none when a fence did not hold. */
export const FLUSH_ONE = formsOf(ONE, "append");
export const FLUSH_MANY = formsOf(MANY, "append_many");
