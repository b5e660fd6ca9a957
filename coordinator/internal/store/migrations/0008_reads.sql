-- A status counts the findings of a day, and a list asks for those since a time: neither
-- may read a million of them. Findings come about in the order of their times, not exactly.
CREATE INDEX findings_stored ON findings (stored_at);
CREATE INDEX findings_time ON findings (time, n);
CREATE INDEX incidents_seen ON incidents (last_seen, n);
