-- When a host's identity was ended (Unix ns; 0: it counts). Its rows stay, since findings
-- and orders are about them. And the key that it used last.
ALTER TABLE hosts ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN key_sha256 BLOB NOT NULL DEFAULT x'';
-- Keys of removed hosts: they enrol no more.
CREATE TABLE revoked_keys (
    key_sha256 BLOB PRIMARY KEY,
    host       TEXT NOT NULL,
    at         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- What nodes saw of an operator: a certificate is made without asking a cluster.
ALTER TABLE operators ADD COLUMN not_after INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operators ADD COLUMN made_by TEXT NOT NULL DEFAULT '';
ALTER TABLE operators ADD COLUMN first_seen INTEGER NOT NULL DEFAULT 0;
-- Who is no operator any more, as an admin signed it last, a sensorv1.SignedRevocations;
-- and its names, which stay here when a later list leaves them out.
CREATE TABLE revocations (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    signed BLOB NOT NULL
) STRICT;
CREATE TABLE revoked_operators (
    name   TEXT PRIMARY KEY,
    at     INTEGER NOT NULL,
    by     TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX hosts_removed ON hosts (id, n) WHERE removed > 0;
