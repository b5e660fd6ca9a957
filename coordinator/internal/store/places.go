package store

import "github.com/vedette-edr/vedette/proto/raftv1"

// maxPlaces bounds what is remembered of one host; the oldest go.
const maxPlaces = 4

// Place is a process that used a host's identity, when it was seen first.
type Place struct {
	N          int64
	Time       int64 // Unix ns
	Node       string
	Address    string
	KernelBoot []byte
	Instance   []byte
}

// Places are those of a host, newest first.
func (tx *Tx) Places(host int64) (out []Place, err error) {
	err = tx.rows("SELECT n, time, node, address, kernel_boot, instance FROM places WHERE host = ? ORDER BY n DESC", func(v []val) error {
		out = append(out, Place{asInt(v[0]), asInt(v[1]), asText(v[2]), asText(v[3]), asBlob(v[4]), asBlob(v[5])})
		return nil
	}, host)
	return out, err
}

// AddPlace notes a process as the newest.
func (tx *Tx) AddPlace(host int64, s *raftv1.HostSession, now int64) error {
	if _, err := tx.exec("INSERT INTO places (host, time, node, address, kernel_boot, instance) VALUES (?, ?, ?, ?, ?, ?)",
		host, now, s.GetNode(), s.GetAddress(), blob(s.GetKernelBoot()), blob(s.GetInstance())); err != nil {
		return err
	}
	_, err := tx.exec("DELETE FROM places WHERE host = ?1 AND n <= (SELECT n FROM places WHERE host = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)", host, int64(maxPlaces))
	return err
}

// TwoPlacesAt is when it was told last that two use a host's identity; 0: never.
func (tx *Tx) TwoPlacesAt(host int64) (at int64, err error) {
	_, err = tx.one("SELECT two_places_at FROM hosts WHERE n = ?", func(v []val) { at = asInt(v[0]) }, host)
	return at, err
}

// SetTwoPlaces notes that it was told.
func (tx *Tx) SetTwoPlaces(host int64, finding string, now int64) error {
	_, err := tx.exec("UPDATE hosts SET two_places = ?, two_places_at = ? WHERE n = ?", finding, now, host)
	return err
}
