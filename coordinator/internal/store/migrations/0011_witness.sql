-- The nodes' signed words for the audit, a raftv1.Checkpoint each; the newest are kept.
CREATE TABLE checkpoints (
    n    INTEGER PRIMARY KEY,
    idx  INTEGER NOT NULL,
    node TEXT NOT NULL,
    time INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX checkpoints_node ON checkpoints (node, n);
-- From where a host's identity was used: its newest processes, as their sessions told.
CREATE TABLE places (
    n           INTEGER PRIMARY KEY,
    host        INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    node        TEXT NOT NULL,
    address     TEXT NOT NULL,
    kernel_boot BLOB NOT NULL,
    instance    BLOB NOT NULL
) STRICT;
CREATE INDEX places_host ON places (host, n);
-- The newest finding that two use it at once.
ALTER TABLE hosts ADD COLUMN two_places TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN two_places_at INTEGER NOT NULL DEFAULT 0;
