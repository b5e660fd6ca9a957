-- Rows are few and narrow: SQLite costs 8–10 µs a row, which is what limits a
-- cluster. Hosts are numbered so that a row does not repeat a 14-byte id.
-- No REAL columns: SQLite keeps NaN as NULL, and a host must not be able to
-- make a row that cannot be stored.
CREATE TABLE applied (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    idx INTEGER NOT NULL
) STRICT;
INSERT INTO applied VALUES (1, 0);

CREATE TABLE cluster (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  TEXT NOT NULL
) STRICT;

CREATE TABLE nodes (
    id               TEXT PRIMARY KEY,
    address          TEXT NOT NULL,
    operator_address TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE operators (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id            TEXT PRIMARY KEY,
    secret_sha256 BLOB NOT NULL,
    kind          INTEGER NOT NULL,
    expires       INTEGER NOT NULL,
    created       INTEGER NOT NULL,
    used_at       INTEGER NOT NULL DEFAULT 0,
    used_by       TEXT NOT NULL DEFAULT '',
    labels        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE hosts (
    n           INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    address     TEXT NOT NULL,
    node        TEXT NOT NULL,
    session     INTEGER NOT NULL,
    connected   INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    enrolled_at INTEGER NOT NULL,
    version     TEXT NOT NULL,
    isolation   TEXT NOT NULL,
    behaviours  INTEGER NOT NULL DEFAULT 0,
    findings    INTEGER NOT NULL DEFAULT 0,
    flows       INTEGER NOT NULL DEFAULT 0,
    labels      BLOB NOT NULL,
    facts       BLOB NOT NULL,
    health      BLOB NOT NULL
) STRICT;
CREATE INDEX hosts_name ON hosts (name);

CREATE TABLE positions (
    host     INTEGER NOT NULL,
    boot     BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    idx      INTEGER NOT NULL,
    PRIMARY KEY (host, boot)
) STRICT, WITHOUT ROWID;

-- What a behaviour is (the same on every host), and on how many hosts.
CREATE TABLE behaviours (
    key        BLOB PRIMARY KEY,
    kind       INTEGER NOT NULL,
    subject    BLOB NOT NULL,
    object     BLOB NOT NULL,
    first_seen INTEGER NOT NULL,
    hosts      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- That a host shows it.
CREATE TABLE sightings (
    host       INTEGER NOT NULL,
    key        BLOB NOT NULL,
    count      INTEGER NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    known      INTEGER NOT NULL,
    PRIMARY KEY (host, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE losses (
    host  INTEGER NOT NULL,
    place TEXT NOT NULL,
    cause TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (host, place, cause)
) STRICT, WITHOUT ROWID;

CREATE TABLE findings (
    n           INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    host        INTEGER NOT NULL,
    idx         INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    stored_at   INTEGER NOT NULL,
    storyline   TEXT NOT NULL,
    disposition TEXT NOT NULL,
    incident    TEXT NOT NULL,
    body        BLOB NOT NULL
) STRICT;
CREATE INDEX findings_host ON findings (host, n);
CREATE INDEX findings_idx ON findings (idx);
CREATE INDEX findings_storyline ON findings (storyline, n);
CREATE INDEX findings_incident ON findings (incident, n) WHERE incident <> '';

-- Flows of storylines, by the 5-tuple as client and server see it: what joins hosts.
CREATE TABLE flows (
    n         INTEGER PRIMARY KEY,
    host      INTEGER NOT NULL,
    idx       INTEGER NOT NULL,
    time      INTEGER NOT NULL,
    tuple     BLOB NOT NULL,
    storyline TEXT NOT NULL,
    body      BLOB NOT NULL
) STRICT;
CREATE INDEX flows_host ON flows (host, n);
CREATE INDEX flows_tuple ON flows (tuple);
CREATE INDEX flows_idx ON flows (idx);

CREATE TABLE incidents (
    n         INTEGER PRIMARY KEY,
    id        TEXT NOT NULL UNIQUE,
    status    TEXT NOT NULL,
    last_seen INTEGER NOT NULL,
    body      BLOB NOT NULL
) STRICT;
CREATE INDEX incidents_status ON incidents (status, n);

CREATE TABLE operations (
    n            INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    nonce        BLOB NOT NULL UNIQUE,
    action       INTEGER NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    signed       BLOB NOT NULL
) STRICT;

CREATE TABLE isolations (
    n             INTEGER PRIMARY KEY,
    operation     INTEGER NOT NULL,
    host          INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    lease_expires INTEGER NOT NULL,
    applied_at    INTEGER NOT NULL,
    self_test     TEXT NOT NULL,
    detail        TEXT NOT NULL,
    UNIQUE (operation, host)
) STRICT;
CREATE INDEX isolations_host ON isolations (host, n);
CREATE INDEX isolations_active ON isolations (n) WHERE state IN (1, 2);

CREATE TABLE audit (
    idx      INTEGER PRIMARY KEY,
    time     INTEGER NOT NULL,
    actor    TEXT NOT NULL,
    action   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    detail   TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash     BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
    n       INTEGER PRIMARY KEY,
    actor   TEXT NOT NULL,
    key     TEXT NOT NULL,
    command INTEGER NOT NULL,
    result  BLOB NOT NULL,
    UNIQUE (actor, key)
) STRICT;
