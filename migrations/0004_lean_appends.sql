-- Appends cost less, and shard groups have leases.

-- CHECK constraints of the journal are parsed anew by the server for each statement (a tenth of a flush): the writer asserts
-- the same, and verify finds what got in by other ways.
alter table qd.journal drop constraint journal_first_seq_check;
alter table qd.journal drop constraint journal_check;
alter table qd.journal drop constraint journal_chain_check;
alter table qd.budget_use
  drop constraint budget_use_spent_micro_usd_check,
  drop constraint budget_use_reserved_micro_usd_check,
  drop constraint budget_use_spent_tokens_check,
  drop constraint budget_use_reserved_tokens_check,
  add constraint budget_use_check check (least(spent_micro_usd, reserved_micro_usd, spent_tokens, reserved_tokens) >= 0);

-- The writer's setting lists the tenants it may write for, a few dozen at most; an id has a fixed length, so finding its
-- text in the list is exact, and cheaper than reading the list as an array for each row and each table.
alter policy append_inserts on qd.journal
  with check (position(tenant_id::text in current_setting('qd.tenants')) > 0);
alter policy append_runs on qd.runs
  using (position(tenant_id::text in current_setting('qd.tenants')) > 0)
  with check (position(tenant_id::text in current_setting('qd.tenants')) > 0);
alter policy append_approvals on qd.approvals
  using (position(tenant_id::text in current_setting('qd.tenants')) > 0)
  with check (position(tenant_id::text in current_setting('qd.tenants')) > 0);
alter policy append_budgets on qd.budget_use
  using (position(tenant_id::text in current_setting('qd.tenants')) > 0)
  with check (position(tenant_id::text in current_setting('qd.tenants')) > 0);

-- Where the owner answers, and until when it owns the group if it says nothing more. Not used where a data folder's lock
-- proves that there is no other owner.
alter table qd.groups
  add column owner_url text not null default '',
  add column lease_until timestamptz not null default '-infinity';
