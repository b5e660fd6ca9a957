-- What nodes compare. chain is the digest of what the entries of this window wrote so far,
-- made by the program tag; empty: this program cannot continue it.
ALTER TABLE applied ADD COLUMN chain BLOB NOT NULL DEFAULT x'';
ALTER TABLE applied ADD COLUMN tag TEXT NOT NULL DEFAULT '';
-- Where the rows that are compared next begin: behind this key of this table.
CREATE TABLE slice (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    tbl TEXT NOT NULL,
    key BLOB NOT NULL
) STRICT;
INSERT INTO slice VALUES (1, '', x'');
