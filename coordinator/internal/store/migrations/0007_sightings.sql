-- Which behaviours a host shows: some 64 of them in a row, since a row costs as much as
-- counting dozens. What a row holds follows from what the host shows and from nothing
-- else (sightings.go has the layout): nodes that come here at different entries stay alike.
CREATE TABLE shelves (
    n    INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
INSERT INTO shelves (n, body)
SELECT n, unhex(group_concat(printf('%02x', length(key) | (known << 7)) || hex(key) || printf('%016x%016x%016x', count, first_seen, last_seen), '' ORDER BY key))
FROM (SELECT s.*, (s.host << 16) | ((
        ((instr('0123456789ABCDEF', substr(hex(s.key) || '0000', 1, 1)) - 1) << 12) |
        ((instr('0123456789ABCDEF', substr(hex(s.key) || '0000', 2, 1)) - 1) << 8) |
        ((instr('0123456789ABCDEF', substr(hex(s.key) || '0000', 3, 1)) - 1) << 4) |
        (instr('0123456789ABCDEF', substr(hex(s.key) || '0000', 4, 1)) - 1)
    ) >> (16 - (SELECT min(column1) FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11)) WHERE h.behaviours <= 64 << column1))) AS n
    FROM sightings s JOIN hosts h ON h.n = s.host)
GROUP BY n ORDER BY n;
DROP TABLE sightings;
ALTER TABLE shelves RENAME TO sightings;
