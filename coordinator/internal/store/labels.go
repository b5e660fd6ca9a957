package store

import (
	"database/sql/driver"
	"fmt"
	"maps"
	"slices"

	sqlite3 "github.com/mattn/go-sqlite3"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// MaxLabels is by how many labels a host is found: its token's, then its own in the order of
// their names. A host names its own, and 32 KiB of them would be thousands of rows a session.
const MaxLabels = 64

// counting are the labels that a host is found by.
func counting(own, operators map[string]string) map[string]string {
	out := make(map[string]string)
	for _, from := range []map[string]string{operators, own} {
		for _, key := range slices.Sorted(maps.Keys(from)) {
			if _, set := out[key]; !set && len(out) < MaxLabels {
				out[key] = from[key]
			}
		}
	}
	return out
}

// setLabels makes a host's rows those of its labels; what stays as it is costs no write.
func (tx *Tx) setLabels(host int64, own, operators map[string]string) error {
	want := counting(own, operators)
	have := make(map[string]string)
	if err := tx.rows("SELECT key, value FROM host_labels WHERE host = ?", func(v []val) error {
		have[asText(v[0])] = asText(v[1])
		return nil
	}, host); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, stays := want[key]; stays {
			continue
		}
		if _, err := tx.exec("DELETE FROM host_labels WHERE host = ? AND key = ?", host, key); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, set := have[key]; set && value == want[key] {
			continue
		}
		if _, err := tx.exec("INSERT INTO host_labels (host, key, value) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET value = ?3", host, key, want[key]); err != nil {
			return err
		}
	}
	return nil
}

// dropLabels takes a removed host out of what is found.
func (tx *Tx) dropLabels(host int64) error {
	_, err := tx.exec("DELETE FROM host_labels WHERE host = ?", host)
	return err
}

// fills are what SQL cannot say of a migration, done in its transaction.
var fills = map[string]func(*sqlite3.SQLiteConn) error{"migrations/0015_labels.sql": fillLabels}

func fillLabels(c *sqlite3.SQLiteConn) error {
	insert, err := c.Prepare("INSERT INTO host_labels (host, key, value) VALUES (?, ?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = insert.Close() }()
	return query(c, "SELECT n, labels, facts FROM hosts WHERE removed = 0 ORDER BY n", func(v []driver.Value) error {
		var operators map[string]string
		if err := decodeLabels(asBlob(v[1]), &operators); err != nil {
			return err
		}
		facts := &sensorv1.HostFacts{}
		if err := proto.Unmarshal(asBlob(v[2]), facts); err != nil {
			return fmt.Errorf("decoding host facts: %w", err)
		}
		for key, value := range counting(facts.GetLabels(), operators) {
			if _, err := insert.(*sqlite3.SQLiteStmt).Exec([]driver.Value{asInt(v[0]), key, value}); err != nil {
				return err
			}
		}
		return nil
	})
}
