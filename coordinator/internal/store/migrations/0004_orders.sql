-- An operation as a whole. State is ordered, or waiting (for another operator), window
-- (open to a veto), vetoed; body is an operatorv1.Operation without its grant and state.
ALTER TABLE operations ADD COLUMN state TEXT NOT NULL DEFAULT 'ordered';
ALTER TABLE operations ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
-- A release: the operation whose containment ends; empty: the host's isolation.
ALTER TABLE operations ADD COLUMN undoes TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN window_ends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN body BLOB NOT NULL DEFAULT x'';
CREATE INDEX operations_open ON operations (n) WHERE state IN ('waiting', 'window');
CREATE INDEX operations_epoch ON operations (epoch);
-- When a host's part went out; 0: it does not count for the governor (a release, a
-- preview, what the host refused).
ALTER TABLE isolations ADD COLUMN counted_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX isolations_counted ON isolations (counted_at) WHERE counted_at > 0;
-- What a host began by itself: its last report, which no grant tells.
ALTER TABLE isolations ADD COLUMN own BLOB NOT NULL DEFAULT x'';
-- The place in the order of grants that a host has reached, and the intent that it judges by.
ALTER TABLE hosts ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN intent INTEGER NOT NULL DEFAULT 0;
-- The role group that a host counts in: its value of the intent's group label. Counting
-- a fleet by it must not read ten thousand hosts' labels for every order.
ALTER TABLE hosts ADD COLUMN grp TEXT NOT NULL DEFAULT '';
CREATE INDEX hosts_grp ON hosts (grp);
CREATE TABLE governor (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    group_label TEXT NOT NULL
) STRICT;
CREATE TABLE intents (
    version    INTEGER PRIMARY KEY,
    applied_at INTEGER NOT NULL,
    signed     BLOB NOT NULL
) STRICT;
