-- Role groups: hosts by an operators' label, or by what they do. hosts.grp, which the governor
-- counts by, is another thing and is not touched by it.
CREATE TABLE roles (
    name    TEXT PRIMARY KEY,
    basis   TEXT NOT NULL,
    sketch  BLOB NOT NULL,
    made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE host_roles (
    host     INTEGER PRIMARY KEY,
    role     TEXT NOT NULL,
    permille INTEGER NOT NULL,
    since    INTEGER NOT NULL
) STRICT;
CREATE INDEX host_roles_role ON host_roles (role, host);
-- The newest pack that an operator signed for a role, a sensorv1.SignedPack.
CREATE TABLE packs (
    role      TEXT PRIMARY KEY,
    signed    BLOB NOT NULL,
    operator  TEXT NOT NULL,
    made_at   INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- What hosts were told to forget, a sensorv1.SignedUnlearn each.
CREATE TABLE unlearns (
    n           INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    host        INTEGER NOT NULL,
    signed      BLOB NOT NULL,
    operator    TEXT NOT NULL,
    given_at    INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    answered_at INTEGER NOT NULL,
    behaviours  INTEGER NOT NULL,
    failure     TEXT NOT NULL
) STRICT;
CREATE INDEX unlearns_host ON unlearns (host, answered_at, n);
-- Behaviours that came to many hosts by installers, a raftv1.RollOut each.
CREATE TABLE roll_outs (
    n        INTEGER PRIMARY KEY,
    key      BLOB NOT NULL UNIQUE,
    noted_at INTEGER NOT NULL,
    body     BLOB NOT NULL
) STRICT;
