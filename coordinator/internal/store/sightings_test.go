package store

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

type seen struct {
	count, first, last int64
	known              bool
}

// shown is what a host shows by a map: what shelves are held to.
type shown map[string]seen

func (m shown) summarise(found []*sensorv1.Behaviour, deltas []*sensorv1.BehaviourDelta) {
	for _, b := range found {
		if _, ok := m[string(b.GetKey())]; !ok {
			m[string(b.GetKey())] = seen{first: b.GetFirstSeen(), last: b.GetFirstSeen()}
		}
	}
	for _, d := range deltas {
		s, ok := m[string(d.GetKey())]
		if !ok {
			s = seen{first: d.GetLastSeen(), last: d.GetLastSeen()}
		}
		m[string(d.GetKey())] = seen{s.count + int64(d.GetCount()), s.first, max(s.last, d.GetLastSeen()), d.GetKnown()}
	}
}

// drawKey is of few bytes now and then, so that lengths and beginnings meet.
func drawKey(random *rand.Rand) []byte {
	length := 16
	if random.IntN(4) == 0 {
		length = random.IntN(4)
	}
	key := make([]byte, length)
	for i := range key {
		key[i] = byte(random.Uint32())
	}
	return key
}

func drawSummary(random *rand.Rand, m shown) (found []*sensorv1.Behaviour, deltas []*sensorv1.BehaviourDelta) {
	had := slices.Sorted(maps.Keys(m))
	key := func() []byte {
		if len(had) > 0 && random.IntN(3) > 0 {
			return []byte(had[random.IntN(len(had))])
		}
		return drawKey(random)
	}
	for range random.IntN(60) {
		found = append(found, &sensorv1.Behaviour{Key: key(), Kind: sensorv1.BehaviourKind(random.IntN(3)), Subject: []byte{byte(random.IntN(3))}, FirstSeen: random.Int64N(1000) - 500})
	}
	for range random.IntN(100) {
		d := &sensorv1.BehaviourDelta{Key: key(), Count: uint64(random.IntN(5)), LastSeen: random.Int64N(1000) - 500, Known: random.IntN(2) == 0}
		if len(found) > 0 && random.IntN(3) == 0 {
			d.Key = found[random.IntN(len(found))].GetKey()
		}
		deltas = append(deltas, d)
	}
	return found, deltas
}

func shelvesOf(t *testing.T, db *DB) map[int64]string {
	t.Helper()
	out := make(map[int64]string)
	if err := db.each(t.Context(), func(s scanner) error {
		var n int64
		var body []byte
		err := s.Scan(&n, &body)
		out[n] = hex.EncodeToString(body)
		return err
	}, "SELECT n, body FROM sightings"); err != nil {
		t.Fatal(err)
	}
	return out
}

// Ensure shelves hold what was told, and that they are the same ones that a schema with a
// row for each behaviour becomes: nodes that migrate at different entries stay alike.
func TestShelves(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	hosts := []shown{{}, {}, {}, {}}
	index := uint64(0)
	update := func(fn func(tx *Tx) error) {
		t.Helper()
		index++
		if err := db.Update(index, fn); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	for i := range hosts {
		update(func(tx *Tx) error { return tx.AddHost(fmt.Sprintf("h-%d", i), nil, nil, 1) })
	}
	for range 60 {
		i := random.IntN(3) % (1 + random.IntN(3)) // not equally often
		found, deltas := drawSummary(random, hosts[i])
		hosts[i].summarise(found, deltas)
		update(func(tx *Tx) error { return tx.Summarise(int64(i+1), found, deltas) })
	}
	// The last one has so many that its keys are told apart by more than a byte.
	var many []*sensorv1.Behaviour
	for range perShelf<<8 + 100 {
		many = append(many, &sensorv1.Behaviour{Key: binary.BigEndian.AppendUint64(nil, random.Uint64())})
	}
	hosts[3].summarise(many, nil)
	update(func(tx *Tx) error { return tx.Summarise(4, many, nil) })
	prevalence := make(map[string]uint64)
	for i, want := range hosts {
		kept, _, err := db.sightings(t.Context(), fmt.Sprintf("h-%d", i), func(all []sighting) []sighting { return all })
		if err != nil {
			t.Fatal(err)
		}
		got := make(shown)
		for _, s := range kept {
			got[string(s.key())] = seen{s.count(), s.first(), s.last(), s.known()}
			prevalence[string(s.key())]++
		}
		if len(kept) != len(want) || !maps.Equal(got, want) {
			t.Fatalf("seed %d: host %d shows %d, want %d", seed, i, len(kept), len(want))
		}
	}
	for key, want := range prevalence {
		if got, err := db.Prevalence(t.Context(), []byte(key)); err != nil || got != want {
			t.Errorf("seed %d: %x is on %d hosts, want %d (%v)", seed, key, got, want, err)
		}
	}
	if got, want := shelvesOf(t, migrated(t, hosts)), shelvesOf(t, db); !maps.Equal(got, want) {
		t.Errorf("seed %d: the schema before becomes %d shelves, want %d that are the same", seed, len(got), len(want))
	}
}

// migrated is a state that had a row for each behaviour.
func migrated(t *testing.T, hosts []shown) *DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	c, err := openConn(path, writerOptions)
	if err != nil {
		t.Fatal(err)
	}
	run := func(q string, args ...val) {
		t.Helper()
		if _, err := c.Exec(q, args); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"0001_first", "0002_losses", "0003_silence", "0004_orders", "0005_signed_nodes", "0006_contained"} {
		text, err := migrations.ReadFile("migrations/" + name + ".sql")
		if err != nil {
			t.Fatal(err)
		}
		run(string(text))
	}
	run("PRAGMA user_version = 6")
	run("BEGIN")
	for i, host := range hosts {
		run(`INSERT INTO hosts (n, id, name, address, node, session, connected, last_seen, enrolled_at, version, isolation, behaviours, labels, facts, health)
			VALUES (?, ?, '', '', '', 0, 0, 0, 0, '', '', ?, x'', x'', x'')`, int64(i+1), fmt.Sprintf("h-%d", i), int64(len(host)))
		for key, s := range host {
			run("INSERT INTO sightings (host, key, count, first_seen, last_seen, known) VALUES (?, ?, ?, ?, ?, ?)", int64(i+1), []byte(key), s.count, s.first, s.last, s.known)
		}
	}
	run("COMMIT")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

// Ensure a host at its limit, or one that makes keys for a single shelf, is bounded, and
// that what is not kept is stated.
func TestShelvesAreBounded(t *testing.T) {
	defer func(most int) { maxBehaviours = most }(maxBehaviours)
	maxBehaviours = 3000
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	random := rand.New(rand.NewPCG(1, 1))
	keys := func(n int, head ...byte) (out []*sensorv1.Behaviour) {
		for range n {
			key := make([]byte, 16)
			for i := range key {
				key[i] = byte(random.Uint32())
			}
			copy(key, head)
			out = append(out, &sensorv1.Behaviour{Key: key, Kind: 1})
		}
		return out
	}
	if err := db.Update(1, func(tx *Tx) error {
		for i, found := range [][]*sensorv1.Behaviour{keys(maxBehaviours + 3), keys(maxShelf+2, 255, 255)} {
			if err := tx.AddHost(fmt.Sprintf("h-%d", i), nil, nil, 1); err != nil {
				return err
			}
			if err := tx.Summarise(int64(i+1), found, nil); err != nil {
				return err
			}
			// Again, each told twice: what is there is no loss, and what is not has no room now either.
			var deltas []*sensorv1.BehaviourDelta
			for _, b := range found {
				deltas = append(deltas, &sensorv1.BehaviourDelta{Key: b.GetKey(), Count: 1})
			}
			if err := tx.Summarise(int64(i+1), found, deltas); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ kept, lost int }{{maxBehaviours, 9}, {maxShelf, 6}} {
		id := fmt.Sprintf("h-%d", i)
		kept, known, err := db.sightings(t.Context(), id, func(all []sighting) []sighting { return all })
		if err != nil || len(kept) != want.kept || len(known) != want.kept {
			t.Errorf("%s has %d behaviours and %d descriptions, want %d (%v)", id, len(kept), len(known), want.kept, err)
		}
		host, err := db.Host(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if losses := host.GetLosses(); len(losses) != 1 || losses[0].GetCause() != "behaviour-limit" || int(losses[0].GetCount()) != want.lost {
			t.Errorf("%s has lost %v, want %d", id, losses, want.lost)
		}
	}
}
