-- What hosts were told that their findings were, a sensorv1.SignedDisposition each.
CREATE TABLE dispositions (
    n           INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    host        INTEGER NOT NULL,
    incident    TEXT NOT NULL,
    signed      BLOB NOT NULL,
    not_after   INTEGER NOT NULL,
    answered_at INTEGER NOT NULL,
    findings    INTEGER NOT NULL,
    failure     TEXT NOT NULL
) STRICT;
CREATE INDEX dispositions_host ON dispositions (host, answered_at, n);
CREATE INDEX dispositions_incident ON dispositions (incident, n);
