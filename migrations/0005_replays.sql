-- Replays ask what the registry was like when something was decided: each move of an alias is kept.
create table qd.alias_moves (
  tenant_id uuid not null,
  project_id text not null,
  n bigint generated always as identity,
  kind text not null,
  name text not null,
  env text not null,
  version int not null,
  at_us bigint not null,
  primary key (tenant_id, project_id, n)
);
alter table qd.alias_moves enable row level security;
alter table qd.alias_moves force row level security;
create policy tenant_rows on qd.alias_moves for all to qd_app
  using (tenant_id = (select qd.tenant())) with check (tenant_id = (select qd.tenant()));
create policy system_reads on qd.alias_moves for select to qd_system using (true);
grant select, insert on qd.alias_moves to qd_app;
grant select on qd.alias_moves to qd_system;
create trigger alias_moves_append_only before update or delete on qd.alias_moves
  for each row execute function qd.refuse_change();

-- Where an alias stands now is known; that it stood there since its version was made is the best guess for the time before.
-- The tables' owner is under row-level security too: it is lifted for this one statement.
alter table qd.aliases no force row level security;
alter table qd.registry no force row level security;
alter table qd.alias_moves no force row level security;
insert into qd.alias_moves (tenant_id, project_id, kind, name, env, version, at_us)
  select a.tenant_id, a.project_id, a.kind, a.name, a.env, a.version, r.created_at_us
  from qd.aliases a join qd.registry r using (tenant_id, project_id, kind, name, version)
  order by r.created_at_us;
alter table qd.aliases force row level security;
alter table qd.registry force row level security;
alter table qd.alias_moves force row level security;

-- Which run a replay or fork was made from.
alter table qd.runs add column source_run_id text;
