package store

import (
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxEnding bounds the words about a session's end, in bytes.
const maxEnding = 512

// Presence is what is known of a host's coming and going.
type Presence struct {
	Node       string
	Session    int64
	Connected  bool
	Heard      int64  // Unix ns of the last sign of life of an ended session
	Silence    string // id of the finding that told of it; empty: none did
	KernelBoot []byte
	Instance   []byte
}

// Presence reads it.
func (tx *Tx) Presence(host int64) (p Presence, err error) {
	_, err = tx.one("SELECT node, session, connected, heard, silence, kernel_boot, instance FROM hosts WHERE n = ?", func(v []val) {
		p = Presence{asText(v[0]), asInt(v[1]), asInt(v[2]) != 0, asInt(v[3]), asText(v[4]), asBlob(v[5]), asBlob(v[6])}
	}, host)
	return p, err
}

// EndSession notes how a session ended, unless the host has a newer one, or this one
// elsewhere, or its end is known (false).
func (tx *Tx) EndSession(host int64, node string, end *raftv1.SessionEnd, now int64) (bool, error) {
	detail := end.GetDetail()
	if len(detail) > maxEnding {
		detail = detail[:maxEnding]
	}
	n, err := tx.exec(`UPDATE hosts SET connected = 0, ended = ?1, ended_detail = ?2, ended_at = ?3, heard = ?4,
		last_seen = max(last_seen, ?4) WHERE n = ?5 AND connected = 1 AND node = ?6 AND session = ?7`,
		end.GetHow(), detail, now, end.GetHeard(), host, node, clamp(end.GetSession()))
	return n > 0, err
}

// EndSessions ends every session that a node is supposed to have. When each was heard
// last, only the node knew: what stays is the last batch.
func (tx *Tx) EndSessions(node string, now int64) error {
	_, err := tx.exec(`UPDATE hosts SET connected = 0, ended = 'node', ended_detail = '', ended_at = ?1, heard = last_seen
		WHERE connected = 1 AND node = ?2`, now, node)
	return err
}

// SetSilence notes that a silence was told.
func (tx *Tx) SetSilence(host int64, finding string) error {
	_, err := tx.exec("UPDATE hosts SET silence = ? WHERE n = ?", finding, host)
	return err
}

// SetReturned clears what was noted of the end, and notes who came back.
func (tx *Tx) SetReturned(host int64, kernelBoot, instance []byte) error {
	_, err := tx.exec("UPDATE hosts SET ended = '', ended_detail = '', ended_at = 0, heard = 0, silence = '', kernel_boot = ?, instance = ? WHERE n = ?",
		blob(kernelBoot), blob(instance), host)
	return err
}

// Silent says whether there is a host that a silence is not over for. It is asked for each of
// thousands that come back, so it does not count the others.
func (tx *Tx) Silent(finding string) (bool, error) {
	return tx.one("SELECT 1 FROM hosts WHERE silence = ? AND silence <> '' LIMIT 1", func([]val) {}, finding)
}

// Finding reads a finding and whose it is; nil when there is none (any more).
func (tx *Tx) Finding(id string) (host int64, f *sensorv1.Finding, err error) {
	err = tx.rows("SELECT host, body FROM findings WHERE id = ?", func(v []val) error {
		host, f = asInt(v[0]), &sensorv1.Finding{}
		return proto.Unmarshal(asBlob(v[1]), f)
	}, id)
	return host, f, err
}
