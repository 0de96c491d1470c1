-- What starts runs without somebody asking: where each trigger stands, and each time that it fired. A fire is written before its
-- run begins, with the run's id: whoever owns that run begins it, once.
create table qd.triggers (
  tenant_id uuid not null,
  project_id text not null,
  name text not null,
  env text not null,
  version int not null,
  paused_by text,
  paused_at_us bigint,
  resumed_at_us bigint,
  next_at_us bigint,
  last_at_us bigint,
  last_run_id text,
  primary key (tenant_id, project_id, name, env)
);

create table qd.fires (
  tenant_id uuid not null,
  project_id text not null,
  name text not null,
  env text not null,
  key text not null,
  run_id text not null,
  cause text not null check (cause in ('schedule', 'webhook', 'event', 'manual')),
  state text not null check (state in ('pending', 'started', 'refused', 'skipped')),
  reason text,
  due_us bigint not null,
  made_us bigint not null,
  -- What the run is started with, as JSON.
  request text not null,
  primary key (tenant_id, project_id, name, env, key)
);
create index fires_pending on qd.fires (tenant_id, made_us) where state = 'pending';
create index fires_latest on qd.fires (tenant_id, project_id, name, env, made_us desc);
create index fires_age on qd.fires (made_us) where state <> 'pending';

-- How far a group's journal was looked at for events that start runs.
create table qd.event_cursors (
  grp int primary key,
  off bigint not null
);

do $$
declare t text;
begin
  foreach t in array array['triggers', 'fires'] loop
    execute format('alter table qd.%I enable row level security', t);
    execute format('alter table qd.%I force row level security', t);
    execute format('create policy tenant_rows on qd.%I for all to qd_app using (tenant_id = (select qd.tenant())) with check (tenant_id = (select qd.tenant()))', t);
    execute format('create policy system_reads on qd.%I for select to qd_system using (true)', t);
  end loop;
end $$;
create policy system_expires on qd.fires for delete to qd_system using (true);
grant select, insert, update on qd.triggers to qd_app;
grant select, insert, update on qd.fires to qd_app;
grant select on qd.triggers to qd_system;
grant select, delete on qd.fires to qd_system;
grant select, insert, update on qd.event_cursors to qd_system;
