-- The nodes' signed words for the audit, a raftv1.Checkpoint each; the newest are kept.
CREATE TABLE checkpoints (
    n    INTEGER PRIMARY KEY,
    idx  INTEGER NOT NULL,
    node TEXT NOT NULL,
    time INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX checkpoints_node ON checkpoints (node, n);
