package grant

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// MaxHosts bounds the hosts of one grant.
const MaxHosts = 10_000

// MaxHostID bounds a host id in a grant, in bytes.
const MaxHostID = 128

// maxPath is the depth of a tree of MaxHosts leaves.
const maxPath = 14

// The prefixes keep a leaf from passing for a node, by RFC 6962, section 2.1.
const (
	leafPrefix = 0
	nodePrefix = 1
)

var (
	// ErrHostSet: the hosts are none, too many, or not in strictly ascending order.
	ErrHostSet = errors.New("bad set of hosts")
	// ErrOtherHost: the proof does not show that the grant names this host.
	ErrOtherHost = errors.New("the grant is not for this host")
)

// HostSet is the hosts of a grant as a Merkle tree: its root stands for them in
// what is signed, and each host's proof is a few hashes however many there are.
type HostSet struct {
	hosts []string
	// levels[0] are the leaves, each level above has half as many; an odd last one is
	// taken up as it is, which gives the tree of RFC 6962.
	levels [][][]byte
}

// NewHostSet makes the tree of hosts, which must be in strictly ascending order:
// the same hosts have one root.
func NewHostSet(hosts []string) (*HostSet, error) {
	if len(hosts) == 0 || len(hosts) > MaxHosts {
		return nil, fmt.Errorf("%w: %d hosts, want 1 to %d", ErrHostSet, len(hosts), MaxHosts)
	}
	leaves := make([][]byte, len(hosts))
	for i, host := range hosts {
		if host == "" || len(host) > MaxHostID {
			return nil, fmt.Errorf("%w: a host id has 1 to %d bytes, not %d", ErrHostSet, MaxHostID, len(host))
		}
		if i > 0 && hosts[i-1] >= host {
			return nil, fmt.Errorf("%w: %q and %q are not in strictly ascending order", ErrHostSet, hosts[i-1], host)
		}
		leaves[i] = leafHash(host)
	}
	s := &HostSet{hosts: hosts, levels: [][][]byte{leaves}}
	for level := leaves; len(level) > 1; {
		var above [][]byte
		for i := 0; i+1 < len(level); i += 2 {
			above = append(above, nodeHash(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			above = append(above, level[len(level)-1])
		}
		s.levels = append(s.levels, above)
		level = above
	}
	return s, nil
}

// Root stands for the hosts in Grant.hosts_root.
func (s *HostSet) Root() []byte { return s.levels[len(s.levels)-1][0] }

// Count is Grant.host_count.
func (s *HostSet) Count() uint32 { return uint32(len(s.hosts)) } //nolint:gosec // at most MaxHosts

// Prove returns the proof that host is one of the set; nil when it is not.
func (s *HostSet) Prove(host string) *sensorv1.HostProof {
	index, found := slices.BinarySearch(s.hosts, host)
	if !found {
		return nil
	}
	proof := &sensorv1.HostProof{Index: uint32(index)} //nolint:gosec // at most MaxHosts
	for _, level := range s.levels[:len(s.levels)-1] {
		if sibling := index ^ 1; sibling < len(level) {
			proof.Path = append(proof.Path, level[sibling])
		}
		index /= 2
	}
	return proof
}

// Names checks that the grant's host set holds host. The grant must be verified.
func Names(g *sensorv1.Grant, proof *sensorv1.HostProof, host string) error {
	index, last := proof.GetIndex(), g.GetHostCount()-1
	if proof == nil || g.GetHostCount() == 0 || g.GetHostCount() > MaxHosts || index > last ||
		len(host) > MaxHostID || len(proof.GetPath()) > maxPath {
		return ErrOtherHost
	}
	sum, path := leafHash(host), proof.GetPath()
	for ; last > 0; index, last = index/2, last/2 {
		if index == last && index%2 == 0 {
			continue // an odd last one has no sibling here
		}
		if len(path) == 0 || len(path[0]) != sha256.Size {
			return ErrOtherHost
		}
		if index%2 == 1 {
			sum = nodeHash(path[0], sum)
		} else {
			sum = nodeHash(sum, path[0])
		}
		path = path[1:]
	}
	if len(path) != 0 || !bytes.Equal(sum, g.GetHostsRoot()) {
		return ErrOtherHost
	}
	return nil
}

func leafHash(host string) []byte {
	sum := sha256.Sum256(append([]byte{leafPrefix}, host...))
	return sum[:]
}

func nodeHash(left, right []byte) []byte {
	var buffer [1 + 2*sha256.Size]byte
	buffer[0] = nodePrefix
	copy(buffer[1:], left)
	copy(buffer[1+sha256.Size:], right)
	sum := sha256.Sum256(buffer[:])
	return sum[:]
}

// Address writes into g which hosts it is for, in any order, and returns their set.
func Address(g *sensorv1.Grant, hosts ...string) (*HostSet, error) {
	hosts = slices.Clone(hosts)
	slices.Sort(hosts)
	set, err := NewHostSet(hosts)
	if err != nil {
		return nil, err
	}
	g.HostsRoot, g.HostCount = set.Root(), set.Count()
	return set, nil
}

// Matches says whether g was signed for exactly this set.
func (s *HostSet) Matches(g *sensorv1.Grant) bool {
	return s.Count() == g.GetHostCount() && bytes.Equal(s.Root(), g.GetHostsRoot())
}

// Hosts are the set's, ascending.
func (s *HostSet) Hosts() []string { return s.hosts }
