-- How a host's last session ended and when it was last heard; which silence (the id of
-- its finding) is not over yet; and which boot and process the sensor was.
ALTER TABLE hosts ADD COLUMN ended TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN ended_detail TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN ended_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN heard INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN silence TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN kernel_boot BLOB NOT NULL DEFAULT x'';
ALTER TABLE hosts ADD COLUMN instance BLOB NOT NULL DEFAULT x'';
-- Why the sensor does not see, in its words; empty when it sees.
ALTER TABLE hosts ADD COLUMN blind TEXT NOT NULL DEFAULT '';
CREATE INDEX hosts_silence ON hosts (silence) WHERE silence <> '';
-- The leader looks here twice a second: what it finds is few rows, however large the fleet.
CREATE INDEX hosts_unheard ON hosts (n) WHERE connected = 0 AND silence = '' AND ended NOT IN ('', 'stopped');
CREATE INDEX hosts_node ON hosts (node) WHERE connected = 1;
