package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

type val = driver.Value

// AddHost makes a host. Labels are the operators' (from the token).
func (tx *Tx) AddHost(id string, facts *sensorv1.HostFacts, labels map[string]string, now int64) error {
	text, err := encodeLabels(labels)
	if err != nil {
		return err
	}
	body, err := encode(facts)
	if err != nil {
		return fmt.Errorf("encoding host facts: %w", err)
	}
	group, err := tx.groupOf(mergeLabels(facts.GetLabels(), labels))
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO hosts (id, name, address, node, session, connected, last_seen, enrolled_at, version, isolation, labels, facts, health, grp)
		VALUES (?, ?, '', '', 0, 0, 0, ?, '', 'none', ?, ?, x'', ?)`, id, facts.GetName(), now, text, body, group)
	if err != nil {
		return err
	}
	host, _, err := tx.HostNumber(id)
	if err != nil {
		return err
	}
	return tx.setLabels(host, facts.GetLabels(), labels)
}

func encodeLabels(labels map[string]string) ([]byte, error) {
	if len(labels) == 0 {
		return []byte{}, nil
	}
	return json.Marshal(labels) // keys sorted
}

// SetFacts replaces what a host says about itself.
func (tx *Tx) SetFacts(host int64, facts *sensorv1.HostFacts) error {
	body, err := encode(facts)
	if err != nil {
		return fmt.Errorf("encoding host facts: %w", err)
	}
	var labels map[string]string
	if err := tx.rows("SELECT labels FROM hosts WHERE n = ?", func(v []val) error { return decodeLabels(asBlob(v[0]), &labels) }, host); err != nil {
		return err
	}
	group, err := tx.groupOf(mergeLabels(facts.GetLabels(), labels))
	if err != nil {
		return err
	}
	if _, err = tx.exec("UPDATE hosts SET name = ?, facts = ?, grp = ? WHERE n = ?", facts.GetName(), body, group, host); err != nil {
		return err
	}
	return tx.setLabels(host, facts.GetLabels(), labels)
}

// SetSession notes a session's begin or end, unless a newer one is known (false).
func (tx *Tx) SetSession(host int64, s *raftv1.HostSession, now int64) (bool, error) {
	session := clamp(s.GetSession())
	if !s.GetConnected() {
		n, err := tx.exec("UPDATE hosts SET connected = 0 WHERE n = ? AND session = ?", host, session)
		return n > 0, err
	}
	n, err := tx.exec(`UPDATE hosts SET connected = 1, session = ?1, node = ?2, address = ?3, version = ?4,
		last_seen = max(last_seen, ?5) WHERE n = ?6 AND session <= ?1`,
		session, s.GetNode(), s.GetAddress(), s.GetSensorVersion(), now, host)
	return n > 0, err
}

// SetHealth replaces a host's last health.
func (tx *Tx) SetHealth(host int64, h *sensorv1.Health) error {
	body, err := encode(h)
	if err != nil {
		return fmt.Errorf("encoding health: %w", err)
	}
	_, err = tx.exec("UPDATE hosts SET health = ?, blind = ? WHERE n = ?", body, blindness(h), host)
	return err
}

// maxBlindness bounds the words about why a sensor does not see, in bytes.
const maxBlindness = 256

func blindness(h *sensorv1.Health) string {
	if !h.GetBlind() {
		return ""
	}
	why := strings.ToValidUTF8(h.GetBlindReason()[:min(len(h.GetBlindReason()), maxBlindness)], "")
	if why == "" {
		return "it does not say why"
	}
	return why
}

// Cluster is the cluster's id, empty before it has one.
func (tx *Tx) Cluster() (id string, err error) {
	_, err = tx.one("SELECT id FROM cluster", func(v []val) { id = asText(v[0]) })
	return id, err
}

// SetCluster gives the cluster its id, once.
func (tx *Tx) SetCluster(id string) error {
	_, err := tx.exec("INSERT INTO cluster (one, id) VALUES (1, ?)", id)
	return err
}

// PutNode makes or changes a coordinator node's addresses; false when nothing changed.
func (tx *Tx) PutNode(n *sensorv1.Node) (bool, error) {
	changed, err := tx.exec(`INSERT INTO nodes (id, address, operator_address) VALUES (?1, ?2, ?3)
		ON CONFLICT DO UPDATE SET address = ?2, operator_address = ?3 WHERE address <> ?2 OR operator_address <> ?3`,
		n.GetId(), n.GetAddress(), n.GetOperatorAddress())
	return changed > 0, err
}

// RemoveNode forgets a coordinator node; false when there was none.
func (tx *Tx) RemoveNode(id string) (bool, error) {
	n, err := tx.exec("DELETE FROM nodes WHERE id = ?", id)
	return n > 0, err
}

// Token is a join token as the store keeps it: the secret only as a hash.
type Token struct {
	ID           string
	SecretSHA256 []byte
	Kind         sensorv1.EnrollKind
	Expires      int64
	Created      int64
	UsedAt       int64
	UsedBy       string
	Labels       map[string]string
}

const tokenColumns = "id, secret_sha256, kind, expires, created, used_at, used_by, labels"

func scanToken(v []val) (*Token, error) {
	t := &Token{
		ID: asText(v[0]), SecretSHA256: asBlob(v[1]), Kind: sensorv1.EnrollKind(asInt(v[2])),
		Expires: asInt(v[3]), Created: asInt(v[4]), UsedAt: asInt(v[5]), UsedBy: asText(v[6]),
	}
	return t, decodeLabels(asBlob(v[7]), &t.Labels)
}

func decodeLabels(b []byte, labels *map[string]string) error {
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, labels); err != nil {
		return fmt.Errorf("decoding labels: %w", err)
	}
	return nil
}

// AddToken stores a join token; false when the id exists. Tokens that ended more
// than keep ns ago are forgotten.
func (tx *Tx) AddToken(t *raftv1.CreateToken, now, keep int64) (bool, error) {
	labels, err := encodeLabels(t.GetLabels())
	if err != nil {
		return false, err
	}
	if _, err := tx.exec("DELETE FROM tokens WHERE expires < ?", now-keep); err != nil {
		return false, err
	}
	n, err := tx.exec("INSERT INTO tokens (id, secret_sha256, kind, expires, created, labels) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		t.GetTokenId(), blob(t.GetSecretSha256()), int64(t.GetKind()), t.GetExpires(), now, labels)
	return n > 0, err
}

// ForgetSpentTokens removes up to so many used tokens, the first used first. The audit
// keeps who enrolled with which.
func (tx *Tx) ForgetSpentTokens(most int64) (int64, error) {
	return tx.exec("DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE used_at > 0 ORDER BY used_at, id LIMIT ?)", most)
}

// CountTokens is how many tokens are stored.
func (tx *Tx) CountTokens() (n int64, err error) {
	_, err = tx.one("SELECT count(*) FROM tokens", func(v []val) { n = asInt(v[0]) })
	return n, err
}

// Token reads a join token, nil when there is none.
func (tx *Tx) Token(id string) (t *Token, err error) {
	err = tx.rows("SELECT "+tokenColumns+" FROM tokens WHERE id = ?", func(v []val) (err error) {
		t, err = scanToken(v)
		return err
	}, id)
	return t, err
}

// SpendToken marks a token as used.
func (tx *Tx) SpendToken(id, by string, now int64) error {
	_, err := tx.exec("UPDATE tokens SET used_at = ?, used_by = ? WHERE id = ?", now, by, id)
	return err
}
