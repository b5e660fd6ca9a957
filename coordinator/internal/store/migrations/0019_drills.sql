-- What drills found out: the last result of each host and drill. missed_at is when it was
-- missed first, proven_at when it was proven last; a result that was missed and is proven is a gap that was closed.
CREATE TABLE drills (
    n         INTEGER PRIMARY KEY,
    host      INTEGER NOT NULL,
    drill     TEXT NOT NULL,
    verdict   TEXT NOT NULL,
    time      INTEGER NOT NULL,
    missed_at INTEGER NOT NULL,
    proven_at INTEGER NOT NULL,
    body      BLOB NOT NULL,
    UNIQUE (host, drill)
) STRICT;
CREATE INDEX drills_time ON drills (time, n);
