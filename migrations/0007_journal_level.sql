-- What the newest program that owned a group writes: an older one, side by side with it for an upgrade, does not take over.
alter table qd.groups add column journal_level int not null default 1;
