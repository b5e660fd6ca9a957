-- The nodes' addresses as an admin signed them last, a sensorv1.SignedNodes.
CREATE TABLE signed_nodes (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    signed BLOB NOT NULL
) STRICT;
