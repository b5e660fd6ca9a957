-- Sets of detection rules as admins signed them, a sensorv1.SignedRules each, and how far
-- each has gone: rolling (ring has it, and those before), complete (all have it, and others go
-- back to it), halted (nobody has it any more), replaced (another came while it was rolling).
CREATE TABLE rule_sets (
    version    INTEGER PRIMARY KEY,
    signed     BLOB NOT NULL,
    ids        TEXT NOT NULL, -- of its rules, a line each
    content    BLOB NOT NULL, -- the same for sets with the same files
    base       INTEGER NOT NULL,
    put_at     INTEGER NOT NULL,
    state      TEXT NOT NULL,
    ring       INTEGER NOT NULL,
    ring_since INTEGER NOT NULL,
    first_host TEXT NOT NULL, -- is in the first ring, so that it is never empty
    ended_at   INTEGER NOT NULL,
    why        TEXT NOT NULL,
    why_host   TEXT NOT NULL
) STRICT;
-- What each host says that it uses. A process of the sensor that is not the one before was
-- started again since.
CREATE TABLE rule_hosts (
    host       INTEGER PRIMARY KEY,
    version    INTEGER NOT NULL,
    newest     INTEGER NOT NULL,
    instance   BLOB NOT NULL,
    since      INTEGER NOT NULL, -- it uses this version
    restarted  INTEGER NOT NULL,
    over_count INTEGER NOT NULL, -- what its findings' limits had held back by then
    told_at    INTEGER NOT NULL,
    held       BLOB NOT NULL     -- sensorv1.RulesHeld
) STRICT;
