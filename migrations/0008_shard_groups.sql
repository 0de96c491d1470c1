-- Runs are placed in shard groups, and several control nodes own some of them each.

-- Control nodes that live, by the database's clock. `seen` is the settings version that the node uses.
create table qd.nodes (
  node text primary key,
  url text not null,
  started_at timestamptz not null default clock_timestamp(),
  alive_until timestamptz not null,
  seen bigint not null
);
grant select, insert, update, delete on qd.nodes to qd_system;

-- Raised by each change of what every node keeps at hand: registry, aliases, workers' credentials. It changes with them, in
-- their transaction, so who reads a version sees all that it stands for.
create table qd.settings (
  one boolean primary key default true check (one),
  version bigint not null
);
insert into qd.settings (version) values (1);
grant select on qd.settings to qd_system;
create function qd.settings_changed() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
  update qd.settings set version = version + 1;
  return null;
end $$;
create trigger registry_changed after insert or update on qd.registry
  for each statement execute function qd.settings_changed();
create trigger aliases_changed after insert or update on qd.aliases
  for each statement execute function qd.settings_changed();
create trigger workers_changed after insert or update on qd.workers
  for each statement execute function qd.settings_changed();

-- What a group knows of its runs, for whoever asks another node.
alter table qd.groups add column open_runs int not null default 0;

-- Each group keeps what its runs have used of a shared budget; the budget's use is the sum. The key without the group goes when
-- there is more than one (setup.ts): until then a program from before may still write beside this one.
alter table qd.budget_use add column grp int not null default 0;
create unique index budget_use_group on qd.budget_use (tenant_id, budget, period_start_us, grp);

-- The part of a shared budget that a group may use without asking. What is granted counts as used: over all groups it never
-- exceeds the limit. `wanted`: another group needs what is not used here.
create table qd.budget_slices (
  tenant_id uuid not null,
  budget text not null,
  period_start_us bigint not null,
  grp int not null,
  granted_micro_usd bigint not null check (granted_micro_usd >= 0),
  granted_tokens bigint not null check (granted_tokens >= 0),
  wanted boolean not null default false,
  primary key (tenant_id, budget, period_start_us, grp)
) with (fillfactor = 50);
create index budget_slices_wanted on qd.budget_slices (grp) where wanted;
alter table qd.budget_slices enable row level security;
alter table qd.budget_slices force row level security;
create policy system_rows on qd.budget_slices for all to qd_system using (true) with check (true);
grant select, insert, update on qd.budget_slices to qd_system;
