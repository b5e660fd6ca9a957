-- What was found out about storylines with findings: the last word on each.
CREATE TABLE investigations (
    n         INTEGER PRIMARY KEY,
    host      INTEGER NOT NULL,
    storyline TEXT NOT NULL,
    verdict   TEXT NOT NULL,
    ended     INTEGER NOT NULL,
    idx       INTEGER NOT NULL,
    body      BLOB NOT NULL,
    UNIQUE (host, storyline)
) STRICT;
CREATE INDEX investigations_idx ON investigations (idx);
CREATE INDEX investigations_verdict ON investigations (verdict, n);
CREATE INDEX investigations_ended ON investigations (ended, n);
-- How people judged what looked the same: a sign is what a finding is about.
CREATE TABLE precedents (
    n         INTEGER PRIMARY KEY,
    sign      BLOB NOT NULL UNIQUE,
    benign    INTEGER NOT NULL,
    malicious INTEGER NOT NULL
) STRICT;
