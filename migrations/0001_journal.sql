-- The journal and what commits with it. Roles qd_append, qd_system and qd_app exist before (see adapters/postgres/setup.ts).
create schema qd;
grant usage on schema qd to qd_append, qd_system, qd_app;

create table qd.groups (
  grp int primary key,
  shard_epoch bigint not null,
  head bigint not null,
  owner text not null,
  acquired_at timestamptz not null default clock_timestamp()
);
insert into qd.groups (grp, shard_epoch, head, owner) values (0, 0, 0, '');

-- One row per append: events first_seq..last_seq of one run as canonical JSON lines. bytea, never jsonb: jsonb reorders
-- keys and rounds numbers, and these bytes are what is hashed. External storage: no compression on the hot path.
create table qd.journal (
  grp int not null,
  off bigint not null,
  run_id uuid not null,
  tenant_id uuid not null,
  first_seq int not null check (first_seq >= 1),
  last_seq int not null check (last_seq >= first_seq),
  at timestamptz not null,
  body bytea not null,
  chain bytea not null check (length(chain) = 32),
  primary key (grp, off, at)
) partition by range (at);
alter table qd.journal alter column body set storage external;
create unique index journal_run on qd.journal (run_id, first_seq, at);
create table qd.journal_default partition of qd.journal default;
alter table qd.journal_default alter column body set storage external;

-- Facts are never changed, by no role: privileges are absent and a trigger refuses even the owner.
create function qd.refuse_change() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  raise exception 'the journal is append-only' using errcode = '42501';
end $$;
create trigger journal_append_only before update or delete on qd.journal
  for each row execute function qd.refuse_change();
create trigger journal_no_truncate before truncate on qd.journal
  for each statement execute function qd.refuse_change();

create table qd.runs (
  tenant_id uuid not null,
  run_id uuid not null,
  project_id text not null,
  grp int not null,
  kind text not null,
  target text not null,
  env text not null,
  state text not null,
  reason text,
  requester text not null,
  created_at_us bigint not null,
  updated_at_us bigint not null,
  steps int not null,
  cost_micro_usd bigint not null,
  tokens bigint not null,
  retry_of text,
  primary key (run_id)
) with (fillfactor = 80);
-- Lists page by id (UUIDv7: newest first backwards); recovery reads open runs of a group.
create index runs_tenant on qd.runs (tenant_id, run_id desc);
create index runs_open on qd.runs (grp, run_id) where state in ('queued', 'running', 'waiting');

create table qd.approvals (
  tenant_id uuid not null,
  approval_id text not null,
  run_id uuid not null,
  step int not null,
  state text not null check (state in ('pending', 'approved', 'rejected', 'expired')),
  tool text not null,
  shown text not null,
  binding text not null,
  requester text not null,
  approvers_min int not null,
  created_at_us bigint not null,
  expires_at_us bigint not null,
  resolved_by text,
  resolved_at_us bigint,
  note text,
  primary key (tenant_id, approval_id)
);
create index approvals_pending on qd.approvals (tenant_id, created_at_us) where state = 'pending';

create table qd.budget_use (
  tenant_id uuid not null,
  budget text not null,
  period_start_us bigint not null,
  spent_micro_usd bigint not null check (spent_micro_usd >= 0),
  reserved_micro_usd bigint not null check (reserved_micro_usd >= 0),
  spent_tokens bigint not null check (spent_tokens >= 0),
  reserved_tokens bigint not null check (reserved_tokens >= 0),
  primary key (tenant_id, budget, period_start_us)
) with (fillfactor = 50);

create table qd.checkpoints (
  tenant_id uuid not null,
  n int not null,
  grp int not null,
  from_off bigint not null,
  to_off bigint not null,
  leaves int not null,
  root bytea not null,
  previous bytea not null,
  key_id text not null,
  signature bytea not null,
  at_us bigint not null,
  primary key (tenant_id, n)
);
create trigger checkpoints_append_only before update or delete on qd.checkpoints
  for each row execute function qd.refuse_change();

-- The row-per-event view. security_invoker: the reader's own row-level policies apply.
create view qd.events with (security_invoker = true) as
  select j.tenant_id, j.run_id, (j.first_seq + e.ord - 1)::int as seq, j.grp, j.off, j.at, e.line as body
  from qd.journal j, lateral string_to_table(convert_from(j.body, 'UTF8'), E'\n') with ordinality as e(line, ord);

-- Row-level security: forced, for the owner too.
create function qd.tenant() returns uuid language sql stable set search_path = pg_catalog as
  $$ select nullif(current_setting('qd.tenant', true), '')::uuid $$;
do $$
declare t text;
begin
  foreach t in array array['journal', 'runs', 'approvals', 'budget_use', 'checkpoints'] loop
    execute format('alter table qd.%I enable row level security', t);
    execute format('alter table qd.%I force row level security', t);
    execute format('create policy system_reads on qd.%I for select to qd_system using (true)', t);
    execute format('create policy tenant_reads on qd.%I for select to qd_app using (tenant_id = (select qd.tenant()))', t);
  end loop;
end $$;
-- The list of tenants is read once a statement (a sub-select), not once a row.
create policy append_inserts on qd.journal for insert to qd_append
  with check (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]));
create policy append_runs on qd.runs for all to qd_append
  using (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]))
  with check (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]));
create policy append_approvals on qd.approvals for all to qd_append
  using (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]))
  with check (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]));
create policy append_budgets on qd.budget_use for all to qd_append
  using (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]))
  with check (tenant_id = any ((select current_setting('qd.tenants')::uuid[])::uuid[]));
create policy system_checkpoints on qd.checkpoints for insert to qd_system with check (true);

grant insert on qd.journal to qd_append;
grant select, insert, update on qd.runs, qd.approvals, qd.budget_use to qd_append;
grant select, update on qd.groups to qd_append, qd_system;
grant select on qd.journal, qd.runs, qd.approvals, qd.budget_use, qd.checkpoints, qd.events to qd_system, qd_app;
grant select on qd.groups to qd_app;
grant insert on qd.checkpoints to qd_system;
