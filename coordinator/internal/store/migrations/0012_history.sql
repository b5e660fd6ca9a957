-- When the cluster's history began (Unix ns, the time of the first command of it; 0: not yet), and
-- what went because the state was too large. Nodes get this schema at different entries, so that
-- nothing below is written before that command, which no older node applies.
CREATE TABLE history (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    began    INTEGER NOT NULL,
    cut      INTEGER NOT NULL,
    cut_at   INTEGER NOT NULL
) STRICT;
INSERT INTO history VALUES (1, 0, 0, 0);
-- By the commands' clock: a host's own times are no reason to keep or to drop anything.
ALTER TABLE flows ADD COLUMN stored_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE idempotency ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN closed_at INTEGER NOT NULL DEFAULT 0;
-- What may go is found without reading what must stay.
CREATE INDEX findings_free ON findings (stored_at, n) WHERE disposition <> 'in-incident';
CREATE INDEX losses_latest ON losses (latest);
