package audit_test

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// seal makes entries from an index on a chain again, as whoever has all programs can.
func seal(entries []*operatorv1.AuditEntry, from int) {
	for i := max(from, 0); i < len(entries); i++ {
		entries[i].Index = uint64(i + 1)
		entries[i].Previous = audit.Genesis()
		if i > 0 {
			entries[i].Previous = entries[i-1].GetHash()
		}
		entries[i].Hash = audit.Hash(entries[i])
	}
}

func record(n int) []*operatorv1.AuditEntry {
	var entries []*operatorv1.AuditEntry
	for i := range n {
		entries = append(entries, &operatorv1.AuditEntry{Time: int64(i), Actor: "operator:ann", Action: "isolate-request", Subject: fmt.Sprintf("h-%d", i%7), Detail: "why"})
	}
	seal(entries, 0)
	return entries
}

// check is what an auditor does offline.
func check(entries []*operatorv1.AuditEntry, checkpoints ...*raftv1.Checkpoint) error {
	if _, err := audit.Verify(0, audit.Genesis(), entries); err != nil {
		return err
	}
	w := audit.NewWitness(checkpoints...)
	for _, e := range entries {
		if err := w.See(e); err != nil {
			return err
		}
	}
	return w.Done()
}

// Ensure whatever is done to a record up to a checkpoint shows, whoever does it with whatever programs.
func TestEveryForgeryShows(t *testing.T) {
	const mutations = 3000
	random := rand.New(rand.NewPCG(5, 3)) //nolint:gosec // replayable
	whole := record(40)
	detected := map[string]int{}
	for round := range mutations {
		at := 1 + random.IntN(len(whole)) // of the checkpoint
		checkpoint := &raftv1.Checkpoint{ClusterId: "c-1", Node: "node:n1", Index: uint64(at), Hash: whole[at-1].GetHash()}
		var entries []*operatorv1.AuditEntry
		for _, e := range whole {
			entries = append(entries, proto.CloneOf(e))
		}
		i := random.IntN(at) // what is touched lies before it, or is it
		sealed := random.IntN(2) == 0
		what := ""
		switch random.IntN(6) {
		case 0:
			what = "changed"
			e := entries[i]
			switch random.IntN(5) {
			case 0:
				e.Actor += "x"
			case 1:
				e.Time++
			case 2:
				e.Subject, e.Detail = e.GetSubject()+e.GetDetail()[:1], e.GetDetail()[1:]
			case 3:
				e.Action = "isolate-veto"
			case 4:
				e.Detail = ""
			}
		case 1:
			what = "dropped"
			entries = slices.Delete(entries, i, i+1)
		case 2:
			what = "swapped"
			j := (i + 1 + random.IntN(len(entries)-1)) % len(entries)
			entries[i], entries[j] = entries[j], entries[i]
			if sealed && entries[i].GetTime() == entries[j].GetTime() {
				t.Fatal("a swap that changes nothing")
			}
		case 3:
			what = "cut"
			entries = entries[:i]
			sealed = true
		case 4:
			what = "forked"
			entries = append(entries[:i:i], record(len(entries)-i+random.IntN(5))...)
			entries[i].Detail = fmt.Sprint("another ", round)
			sealed = true
		case 5:
			what = "inserted"
			entries = slices.Insert(entries, i, &operatorv1.AuditEntry{Action: "host-remove"})
		}
		if sealed {
			what += ", hashes right"
			seal(entries, 0)
		}
		if err := check(entries, checkpoint); !errors.Is(err, audit.ErrBroken) {
			t.Fatalf("round %d: %s at %d, checkpoint at %d: %v", round, what, i+1, at, err)
		}
		detected[what]++
		if err := check(whole, checkpoint); err != nil {
			t.Fatalf("the record itself: %v", err)
		}
	}
	t.Logf("%d of %d forgeries show: %v", mutations, mutations, detected)
	// What no checkpoint covers does not show: that is why receipts are kept elsewhere, and often.
	checkpoint := &raftv1.Checkpoint{Index: 30, Hash: whole[29].GetHash()}
	if err := check(whole[:30], checkpoint); err != nil {
		t.Errorf("cut behind the checkpoint: %v", err)
	}
}

// Ensure a checkpoint counts only by a node or an operator of its cluster, whose certificate was valid then.
func TestVerifyCheckpoint(t *testing.T) {
	ca, other := linktest.NewCA(t), linktest.NewCA(t)
	now := time.Now()
	sign := func(by *linktest.CA, kind, id, role string, change func(*raftv1.Checkpoint)) *raftv1.Checkpoint {
		t.Helper()
		cert := by.IssueBetween(kind, id, role, now.Add(-time.Hour), now.Add(time.Hour))
		c := &raftv1.Checkpoint{ClusterId: linktest.Cluster, Node: kind + ":" + id, Index: 7, Hash: audit.Genesis(), Time: now.UnixNano()}
		if change != nil {
			change(c)
		}
		if err := audit.SignCheckpoint(cert.PrivateKey.(crypto.Signer), cert.Certificate, c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	changed := sign(ca, link.KindNode, "n1", "", nil)
	changed.Index++
	for name, tt := range map[string]struct {
		checkpoint *raftv1.Checkpoint
		good       bool
	}{
		"a node":            {sign(ca, link.KindNode, "n1", "", nil), true},
		"an operator":       {sign(ca, link.KindOperator, "ann", "viewer", nil), true},
		"a host":            {sign(ca, link.KindHost, "h-abcdefghijkl", "", nil), false},
		"another authority": {sign(other, link.KindNode, "n1", "", nil), false},
		"another's name":    {sign(ca, link.KindNode, "n1", "", func(c *raftv1.Checkpoint) { c.Node = "node:n2" }), false},
		"another cluster":   {sign(ca, link.KindNode, "n1", "", func(c *raftv1.Checkpoint) { c.ClusterId = "c-other" }), false},
		"out of its time":   {sign(ca, link.KindNode, "n1", "", func(c *raftv1.Checkpoint) { c.Time = now.Add(2 * time.Hour).UnixNano() }), false},
		"no hash":           {sign(ca, link.KindNode, "n1", "", func(c *raftv1.Checkpoint) { c.Hash = nil }), false},
		"changed":           {changed, false},
		"nothing":           {&raftv1.Checkpoint{}, false},
	} {
		peer, err := audit.VerifyCheckpoint(tt.checkpoint, ca.Roots())
		if (err == nil) != tt.good || err != nil && !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("%s: %v, %v", name, peer, err)
		}
	}
	if _, err := audit.VerifyCheckpoint(sign(ca, link.KindNode, "n1", "", nil), x509.NewCertPool()); err == nil {
		t.Error("with no roots it counts")
	}
}
