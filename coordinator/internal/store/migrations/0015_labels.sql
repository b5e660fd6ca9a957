-- A host's labels, as they count: those of its token before its own. To find hosts by label must
-- not read the fleet. labels.go fills it from the hosts' rows and from nothing else: nodes that
-- come here at different entries stay alike.
CREATE TABLE host_labels (
    host  INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (host, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX host_labels_value ON host_labels (key, value, host);
-- A status tells of the nodes whose state was not the others'. They are few, the entries are not.
CREATE INDEX audit_differed ON audit (idx) WHERE action = 'node-differed';
