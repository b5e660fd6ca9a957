package audit_test

import (
	"crypto"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// FuzzCheckpoint gives it what a node could tell: nothing that was not signed is taken.
func FuzzCheckpoint(f *testing.F) {
	now := time.Now()
	ca := linktest.NewCA(f)
	cert := ca.IssueBetween(link.KindNode, "n1", "", now.Add(-time.Hour), now.Add(time.Hour))
	signed := &raftv1.Checkpoint{ClusterId: linktest.Cluster, Node: "node:n1", Index: 7, Hash: audit.Genesis(), Time: now.UnixNano()}
	if err := audit.SignCheckpoint(cert.PrivateKey.(crypto.Signer), cert.Certificate, signed); err != nil {
		f.Fatal(err)
	}
	for _, change := range []func(*raftv1.Checkpoint){
		func(*raftv1.Checkpoint) {}, func(c *raftv1.Checkpoint) { c.Index++ }, func(c *raftv1.Checkpoint) { c.Chain = nil }, func(c *raftv1.Checkpoint) { c.Chain[0] = c.Chain[0][1:] },
		func(c *raftv1.Checkpoint) { c.Hash = nil }, func(c *raftv1.Checkpoint) { c.Signature = nil }, func(c *raftv1.Checkpoint) { c.Time = -1 }, func(c *raftv1.Checkpoint) { c.Node = "node:n2" },
	} {
		c := proto.CloneOf(signed)
		change(c)
		raw, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{})
	entries := record(9)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &raftv1.Checkpoint{}
		if proto.Unmarshal(raw, c) != nil {
			return
		}
		if peer, err := audit.VerifyCheckpoint(c, ca.Roots()); err == nil {
			got := proto.CloneOf(c)
			got.Signature, got.Chain = signed.GetSignature(), signed.GetChain()
			if peer.ID != "n1" || !proto.Equal(got, signed) {
				t.Errorf("taken: %v by %v", c, peer)
			}
		}
		_ = check(entries, c)
	})
}
