package store

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func labelled(t *testing.T, db *DB, labels map[string]string) []string {
	t.Helper()
	ids := []string{}
	for token := ""; ; {
		hosts, next, err := db.Hosts(t.Context(), HostFilter{Labels: labels}, Page{Size: 1, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hosts {
			ids = append(ids, h.GetId())
		}
		if token = next; token == "" {
			return ids
		}
	}
}

// Ensure hosts are found by the labels that count for them: the token's before their own, as
// they are now; that a removed host is found by none; and that a host with thousands is
// found by a bounded number, its token's among them.
func TestLabels(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	index := uint64(0)
	apply := func(fn func(tx *Tx) error) {
		t.Helper()
		index++
		if err := db.Update(index, fn); err != nil {
			t.Fatal(err)
		}
	}
	facts := func(labels map[string]string) *sensorv1.HostFacts { return &sensorv1.HostFacts{Labels: labels} }
	many := make(map[string]string)
	for i := range 5000 {
		many[fmt.Sprintf("k%04d", i)] = "v"
	}
	apply(func(tx *Tx) error {
		for id, own := range map[string]map[string]string{"h-1": {"role": "db", "site": "a"}, "h-2": {"role": "db", "site": "b"}, "h-3": many} {
			token := map[string]string{"role": "web"}
			if id == "h-2" {
				token = nil
			}
			if err := tx.AddHost(id, facts(own), token, 1); err != nil {
				return err
			}
		}
		return nil
	})
	want := func(labels map[string]string, ids ...string) {
		t.Helper()
		got := labelled(t, db, labels)
		if slices.Sort(got); !slices.Equal(got, ids) {
			t.Errorf("hosts by %v are %v, want %v", labels, got, ids)
		}
	}
	want(map[string]string{"role": "web"}, "h-1", "h-3")
	want(map[string]string{"role": "db"}, "h-2")
	want(map[string]string{"role": "web", "site": "a"}, "h-1")
	want(map[string]string{"role": "web", "site": "b"})
	want(map[string]string{"k0000": "v"}, "h-3")
	want(map[string]string{"k4999": "v"})
	rows := func() (n int64) {
		n, err := queryInt(db.writer, "SELECT count(*) FROM host_labels")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := rows(); got != 2+2+MaxLabels {
		t.Errorf("%d rows, want those of h-1 and h-2 and %d", got, MaxLabels)
	}

	var first, second int64
	apply(func(tx *Tx) (err error) {
		if first, _, err = tx.HostNumber("h-1"); err != nil {
			return err
		}
		if second, _, err = tx.HostNumber("h-2"); err != nil {
			return err
		}
		return tx.SetFacts(first, facts(map[string]string{"role": "db", "rack": "7"}))
	})
	want(map[string]string{"site": "a"})
	want(map[string]string{"role": "web", "rack": "7"}, "h-1")
	apply(func(tx *Tx) error { return tx.RemoveHost("h-2", second, 1) })
	want(map[string]string{"role": "db"})
	want(map[string]string{"site": "b"})

	// A state of before has these rows when it is migrated, at whatever entry that is.
	before, err := db.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.writer.Exec("DELETE FROM host_labels", nil); err != nil {
		t.Fatal(err)
	}
	if err := fillLabels(db.writer); err != nil {
		t.Fatal(err)
	}
	if after, err := db.Digest(t.Context()); err != nil || after != before {
		t.Errorf("migrated, the rows are others: %v", err)
	}
}

// Ensure what stays as it is costs no write, as a fleet says its labels at every session.
func TestLabelsAreWrittenOnce(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	labels := map[string]string{"a": "1", "b": "2"}
	var chains [][]byte
	for i := range uint64(3) {
		err := db.Update(i+1, func(tx *Tx) error {
			if i == 0 {
				return tx.AddHost("h-1", &sensorv1.HostFacts{Labels: labels}, nil, 1)
			}
			before := len(tx.db.chain.buf)
			if err := tx.setLabels(1, maps.Clone(labels), nil); err != nil {
				return err
			}
			if got := len(tx.db.chain.buf); got != before {
				t.Errorf("the same labels wrote something: %d bytes of the chain", got-before)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		chains = append(chains, db.checks.chain)
	}
	if bytes.Equal(chains[0], chains[1]) {
		t.Error("the chain does not move on")
	}
}
