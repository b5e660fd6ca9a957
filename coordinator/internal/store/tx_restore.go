package store

import "github.com/vedette-edr/vedette/proto/sensorv1"

// OnlyNode makes n the only node of the cluster and ends the sessions of all others,
// which are not there to say how they ended. It returns the ids of the others.
func (tx *Tx) OnlyNode(n *sensorv1.Node) (others []string, err error) {
	if err := tx.rows("SELECT id FROM nodes WHERE id <> ? ORDER BY id", func(v []val) error {
		others = append(others, asText(v[0]))
		return nil
	}, n.GetId()); err != nil {
		return nil, err
	}
	if _, err := tx.exec("DELETE FROM nodes"); err != nil {
		return nil, err
	}
	if _, err := tx.PutNode(n); err != nil {
		return nil, err
	}
	_, err = tx.exec(`UPDATE hosts SET connected = 0, ended = 'node', ended_detail = '', ended_at = ?1, heard = last_seen WHERE connected = 1`, tx.Time)
	return others, err
}

// RaiseEpochs lets no order be given to any host whose place is not behind moment: hosts
// may have been given some that this state does not know, and take only what is newer.
func (tx *Tx) RaiseEpochs(moment int64) error {
	_, err := tx.exec("UPDATE hosts SET epoch = max(epoch, ?)", moment)
	return err
}

// VoidTokens makes every unused join token useless; it returns how many there were.
func (tx *Tx) VoidTokens() (int64, error) {
	return tx.exec("DELETE FROM tokens WHERE used_at = 0")
}

// AddLossEverywhere adds one to a loss of every host.
func (tx *Tx) AddLossEverywhere(place, cause string) error {
	_, err := tx.exec(`INSERT INTO losses (host, place, cause, count, latest) SELECT n, ?1, ?2, 1, ?3 FROM hosts WHERE true
		ON CONFLICT DO UPDATE SET count = min(count + 1, 1152921504606846976), latest = excluded.latest`, place, cause, tx.Time)
	return err
}
