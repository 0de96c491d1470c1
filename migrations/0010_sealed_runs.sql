-- Captured runs that ended: nothing can be added to a sealed one. The index is what is left to seal.
alter table qd.runs add column sealed boolean not null default false;
create index runs_unsealed on qd.runs (grp, updated_at_us) where kind = 'captured' and not sealed
  and state in ('succeeded', 'failed', 'cancelled', 'timed_out', 'budget_exceeded', 'policy_blocked');
