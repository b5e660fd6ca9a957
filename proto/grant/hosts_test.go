package grant_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func hosts(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("h-%05d", i)
	}
	return out
}

// reference is the tree hash as RFC 6962, section 2.1, defines it.
func reference(hosts []string) []byte {
	if len(hosts) == 1 {
		sum := sha256.Sum256(append([]byte{0}, hosts[0]...))
		return sum[:]
	}
	k := 1
	for k*2 < len(hosts) {
		k *= 2
	}
	sum := sha256.Sum256(append(append([]byte{1}, reference(hosts[:k])...), reference(hosts[k:])...))
	return sum[:]
}

// Ensure every host of a set is proved, no other is, and no proof serves another host.
func TestHostSet(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 1000, grant.MaxHosts} {
		all := hosts(n)
		g := &sensorv1.Grant{}
		set, err := grant.Address(g, all...)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(g.GetHostsRoot(), reference(all)) {
			t.Errorf("%d hosts: the root is not RFC 6962's", n)
		}
		for i, host := range all {
			proof := set.Prove(host)
			if err := grant.Names(g, proof, host); err != nil {
				t.Fatalf("%d hosts, host %d: %v", n, i, err)
			}
			if err := grant.Names(g, proof, host+"x"); !errors.Is(err, grant.ErrOtherHost) {
				t.Fatalf("%d hosts, host %d: its proof serves another: %v", n, i, err)
			}
			if other := all[(i+1)%n]; n > 1 && grant.Names(g, proof, other) == nil {
				t.Fatalf("%d hosts: the proof of %s serves %s", n, host, other)
			}
		}
		if set.Prove("h-none") != nil || grant.Names(g, nil, all[0]) == nil {
			t.Errorf("%d hosts: proved one that is not in it", n)
		}
	}
	for _, bad := range [][]string{nil, {""}, {"b", "a"}, {"a", "a"}, hosts(grant.MaxHosts + 1), {string(make([]byte, 200))}} {
		if _, err := grant.NewHostSet(bad); !errors.Is(err, grant.ErrHostSet) {
			t.Errorf("a set of %d hosts: %v", len(bad), err)
		}
	}
}

// Ensure a changed proof or count proves nothing.
func TestProofMutants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := hosts(rapid.IntRange(1, 70).Draw(t, "hosts"))
		g := &sensorv1.Grant{}
		set, err := grant.Address(g, all...)
		if err != nil {
			t.Fatal(err)
		}
		host := rapid.SampledFrom(all).Draw(t, "host")
		proof := proto.CloneOf(set.Prove(host))
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
			proof.Index += rapid.Uint32Range(1, 1<<32-1).Draw(t, "by")
		case 1:
			proof.Path = append(proof.Path, make([]byte, sha256.Size))
		case 2:
			if len(proof.GetPath()) == 0 {
				return
			}
			proof.Path = proof.GetPath()[1:]
		case 3:
			if len(proof.GetPath()) == 0 {
				return
			}
			i := rapid.IntRange(0, len(proof.GetPath())-1).Draw(t, "hash")
			proof.Path[i] = bytes.Clone(proof.GetPath()[i])
			proof.Path[i][rapid.IntRange(0, sha256.Size-1).Draw(t, "byte")] ^= 1
		case 4:
			g.HostsRoot = bytes.Clone(g.GetHostsRoot())
			g.HostsRoot[0] ^= 1
		}
		if grant.Names(g, proof, host) == nil {
			t.Fatalf("proved by %v in a set of %d", proof, g.GetHostCount())
		}
	})
}
