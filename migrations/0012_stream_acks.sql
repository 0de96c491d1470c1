-- How far a named reader of a run's events has come, by its own word.
create table qd.stream_acks (
  tenant_id uuid not null,
  run_id uuid not null,
  principal text not null,
  consumer text not null,
  seq int not null check (seq >= 0),
  at_us bigint not null,
  primary key (tenant_id, run_id, principal, consumer)
);
create index stream_acks_age on qd.stream_acks (at_us);
alter table qd.stream_acks enable row level security;
alter table qd.stream_acks force row level security;
create policy tenant_rows on qd.stream_acks for all to qd_app
  using (tenant_id = (select qd.tenant())) with check (tenant_id = (select qd.tenant()));
create policy system_reads on qd.stream_acks for select to qd_system using (true);
create policy system_expires on qd.stream_acks for delete to qd_system using (true);
grant select, insert, update on qd.stream_acks to qd_app;
grant select, delete on qd.stream_acks to qd_system;
