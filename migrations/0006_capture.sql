-- Events that came before the ones they follow wait here, acknowledged, until those have come or are given up.
create table qd.staged_events (
  tenant_id uuid not null,
  run_id uuid not null,
  producer text not null,
  epoch bigint not null,
  sequence_no bigint not null,
  -- As it will be recorded: checked and redacted.
  event text not null,
  staged_at_us bigint not null,
  primary key (tenant_id, run_id, producer, epoch, sequence_no)
);
alter table qd.staged_events enable row level security;
alter table qd.staged_events force row level security;
create policy tenant_rows on qd.staged_events for all to qd_app
  using (tenant_id = (select qd.tenant())) with check (tenant_id = (select qd.tenant()));
create policy system_reads on qd.staged_events for select to qd_system using (true);
grant select, insert, delete on qd.staged_events to qd_app;
grant select on qd.staged_events to qd_system;

-- What the source of a captured run calls it: the trace or session that further calls and spans belong to.
alter table qd.runs add column external_id text;
create index runs_external on qd.runs (tenant_id, external_id, run_id desc) where external_id is not null;
