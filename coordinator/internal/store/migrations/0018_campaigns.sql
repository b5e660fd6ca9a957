-- Storylines of several hosts, joined by evidence.
CREATE TABLE campaigns (
    n         INTEGER PRIMARY KEY,
    id        TEXT NOT NULL UNIQUE,
    status    TEXT NOT NULL,
    last_seen INTEGER NOT NULL,
    closed_at INTEGER NOT NULL,
    body      BLOB NOT NULL
) STRICT;
CREATE INDEX campaigns_status ON campaigns (status, n);
CREATE INDEX campaigns_seen ON campaigns (last_seen, n);
-- How usual an image, a domain or a peer is, whoever uses it. Written only with what is new
-- for the whole fleet.
CREATE INDEX behaviours_object ON behaviours (kind, object);
