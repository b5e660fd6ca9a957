-- How far each place outside has what it is to have, by the numbers that all nodes' rows have alike.
-- Rows up to findings_from and flows_from were there when it began, with holes that are no loss.
CREATE TABLE exports (
    sink          TEXT PRIMARY KEY,
    findings      INTEGER NOT NULL,
    incident_idx  INTEGER NOT NULL,
    incident_n    INTEGER NOT NULL,
    audit         INTEGER NOT NULL,
    flows         INTEGER NOT NULL,
    findings_from INTEGER NOT NULL,
    flows_from    INTEGER NOT NULL,
    lost          INTEGER NOT NULL,
    lost_at       INTEGER NOT NULL,
    moved_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- When an incident changed last: the entry, and its time. Nodes get this schema at different entries,
-- so that neither is written before the first row above, which no older node makes.
ALTER TABLE incidents ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN changed_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX incidents_changed ON incidents (changed, n);
