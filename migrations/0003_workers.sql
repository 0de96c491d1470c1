-- Credentials of remote workers. They belong to the installation, not to a tenant; only their hash is kept.
create table qd.workers (
  name text primary key,
  token_sha256 text not null unique,
  labels text[] not null,
  created_by text not null,
  created_at_us bigint not null,
  revoked_by text,
  revoked_at_us bigint
);
grant select, insert, update on qd.workers to qd_system;
