-- Of a limit on how many calls of a tool or an agent run at a time, the places that each control node may use. Those of a node that
-- does not live any more are free.
create table qd.limit_places (
  key text not null,
  node text not null references qd.nodes on delete cascade,
  granted int not null check (granted >= 0),
  wanted boolean not null default false,
  primary key (key, node)
);
grant select, insert, update, delete on qd.limit_places to qd_system;
