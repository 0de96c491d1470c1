-- What users declare: immutable versions, and which version an environment uses. Plus idempotency keys of the API.
create table qd.registry (
  tenant_id uuid not null,
  project_id text not null,
  kind text not null,
  name text not null,
  version int not null check (version >= 1),
  digest text not null,
  state text not null check (state in ('draft', 'released', 'deprecated', 'archived')),
  -- Canonical JSON text: the digest is over these bytes.
  spec text not null,
  created_by text not null,
  created_at_us bigint not null,
  primary key (tenant_id, project_id, kind, name, version)
);

create function qd.refuse_registry_change() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  if tg_op = 'DELETE' or (new.tenant_id, new.project_id, new.kind, new.name, new.version, new.digest, new.spec)
      is distinct from (old.tenant_id, old.project_id, old.kind, old.name, old.version, old.digest, old.spec) then
    raise exception 'versions are immutable; only their state changes' using errcode = '42501';
  end if;
  return new;
end $$;
create trigger registry_immutable before update or delete on qd.registry
  for each row execute function qd.refuse_registry_change();

create table qd.aliases (
  tenant_id uuid not null,
  project_id text not null,
  kind text not null,
  name text not null,
  env text not null,
  version int not null,
  primary key (tenant_id, project_id, kind, name, env)
);

create table qd.idempotency (
  tenant_id uuid not null,
  key_hash text not null,
  body_hash text not null,
  status int,
  response text,
  created_at_us bigint not null,
  primary key (tenant_id, key_hash)
);
create index idempotency_age on qd.idempotency (created_at_us);

do $$
declare t text;
begin
  foreach t in array array['registry', 'aliases', 'idempotency'] loop
    execute format('alter table qd.%I enable row level security', t);
    execute format('alter table qd.%I force row level security', t);
    execute format('create policy tenant_rows on qd.%I for all to qd_app using (tenant_id = (select qd.tenant())) with check (tenant_id = (select qd.tenant()))', t);
    execute format('create policy system_reads on qd.%I for select to qd_system using (true)', t);
  end loop;
end $$;
create policy system_expires on qd.idempotency for delete to qd_system using (true);
grant select, insert on qd.registry to qd_app;
grant update (state) on qd.registry to qd_app;
grant select, insert, update on qd.aliases to qd_app;
grant select, insert, update, delete on qd.idempotency to qd_app;
grant select on qd.registry, qd.aliases to qd_system;
grant select, delete on qd.idempotency to qd_system;
