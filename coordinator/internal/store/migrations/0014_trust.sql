-- Which authorities of the cluster are trusted, as an admin signed it, a
-- sensorv1.SignedTrust each; the last is in force. The others are kept: what was signed
-- under an authority that went must be readable still.
CREATE TABLE trust (
    epoch  INTEGER PRIMARY KEY,
    signed BLOB NOT NULL,
    reason TEXT NOT NULL
) STRICT;
-- What each has on disk of it, and by which authority's key a host's certificate is.
ALTER TABLE hosts ADD COLUMN trust_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN trust_root BLOB NOT NULL DEFAULT x'';
ALTER TABLE nodes ADD COLUMN trust_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operators ADD COLUMN trust_epoch INTEGER NOT NULL DEFAULT 0;
