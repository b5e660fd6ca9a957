package roles

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Thresholds of similarity, which is the share of common behaviours among all that two have
// (Jaccard), in permille, as a sketch of 128 estimates it: ± 45 by one standard deviation at 500.
const (
	// joins is what makes a host one of a group, and stays what keeps it one: what lies
	// between does not move a host to and fro.
	joins, stays = 500, 400
	// better is by how much another group must be nearer for a host to change.
	better = 100
	// merges joins two groups.
	merges = 700
	// belongs is the share of a fresh host's behaviours that are the group's: it does little
	// yet, so that most of what the group does is missing there.
	belongs = 600
	// moved is how alike a group's sketch must stay for not being written again.
	moved = 900
	// minCommon of keys are needed for any judgement.
	minCommon = 16
	// minGroup hosts make a group, and fewer than minLeft end one.
	minGroup, minLeft = 3, 2
	// maxSimilar bounds the groups by similarity.
	maxSimilar = 256
	// sampled hosts of a group make its sketch.
	sampled = 64
)

// group is a role group while it is planned.
type group struct {
	name    string
	sketch  []uint64
	members []int // of hosts
	stored  bool
	was     []uint64 // the sketch that is stored
}

// plan says what is to change, so that hosts with an operators' label are in the group of its
// value, and the others in that of the hosts which do the same. A host's own label places it
// nowhere. Names are kept as long as a group is. It is a function of what it is given.
func plan(hosts []store.HostSketch, have []*raftv1.RoleGroup) (out *raftv1.SetRoles) {
	out = &raftv1.SetRoles{}
	role := make([]string, len(hosts))
	near := make([]uint32, len(hosts))
	labelled := make(map[string]bool)
	for i, h := range hosts {
		if pack.ValidGroup(h.Label) && !isSimilar(h.Label) {
			role[i], near[i] = h.Label, 1000
			labelled[h.Label] = true
		}
	}
	groups := similarGroups(have)
	left := place(hosts, role, near, groups)
	groups = found(hosts, left, role, near, groups)
	groups = merge(hosts, role, near, groups)
	stored := make(map[string]bool)
	for _, g := range have {
		stored[g.GetName()] = true
		if g.GetBasis() == state.RoleByLabel && !labelled[g.GetName()] {
			out.Dissolved = append(out.Dissolved, g.GetName())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(labelled)) {
		if !stored[name] {
			out.Groups = append(out.Groups, &raftv1.RoleGroup{Name: name, Basis: state.RoleByLabel})
		}
	}
	kept := make(map[string]bool)
	for _, g := range groups {
		least := minGroup
		if g.stored {
			least = minLeft
		}
		if len(g.members) < least {
			continue
		}
		kept[g.name] = true
		if g.sketch = common(hosts, g.members); !g.stored || similarity(g.was, g.sketch) < moved {
			out.Groups = append(out.Groups, &raftv1.RoleGroup{Name: g.name, Basis: state.RoleBySimilar, Sketch: packed(g.sketch)})
		}
	}
	for _, g := range have {
		if g.GetBasis() == state.RoleBySimilar && !kept[g.GetName()] {
			out.Dissolved = append(out.Dissolved, g.GetName())
		}
	}
	for i, h := range hosts {
		if !labelled[role[i]] && !kept[role[i]] {
			role[i], near[i] = "", 0
		}
		if role[i] != h.Role {
			out.Hosts = append(out.Hosts, &raftv1.HostRole{Host: h.ID, Role: role[i], Permille: near[i]})
		}
	}
	return out
}

// similarPrefix begins the names of groups by similarity: no label makes one of them.
const similarPrefix = "like:"

func isSimilar(name string) bool {
	return len(name) > len(similarPrefix) && name[:len(similarPrefix)] == similarPrefix
}

func similarGroups(have []*raftv1.RoleGroup) (groups []*group) {
	for _, g := range have {
		if g.GetBasis() == state.RoleBySimilar {
			was := unpacked(g.GetSketch())
			groups = append(groups, &group{name: g.GetName(), sketch: was, was: was, stored: true})
		}
	}
	return groups
}

// index finds the groups that have a key in their sketch.
type index map[uint64][]int

func (x index) add(at int, sketch []uint64) {
	for _, key := range sketch {
		x[key] = append(x[key], at)
	}
}

// nearest of the groups that share any key with a host.
func nearest(h store.HostSketch, groups []*group, x index) (best int, most uint32) {
	best = -1
	seen := make(map[int]bool)
	for _, key := range h.Keys {
		for _, at := range x[key] {
			if seen[at] {
				continue
			}
			seen[at] = true
			if like := closeness(h, groups[at].sketch); like > most || like == most && best >= 0 && groups[at].name < groups[best].name {
				best, most = at, like
			}
		}
	}
	return best, most
}

// closeness is a host's to a group; a fresh one's counts when it belongs, scaled to what joins.
func closeness(h store.HostSketch, sketch []uint64) uint32 {
	if !h.Fresh {
		return similarity(h.Keys, sketch)
	}
	own, _, both := counted(h.Keys, sketch)
	if own < minCommon {
		return 0
	}
	return uint32(both * 1000 / own * joins / belongs) //nolint:gosec // at most 1000
}

// place puts hosts without a label into the groups that there are; left are those that fit none.
func place(hosts []store.HostSketch, role []string, near []uint32, groups []*group) (left []int) {
	x, at := index{}, make(map[string]int)
	for i, g := range groups {
		x.add(i, g.sketch)
		at[g.name] = i
	}
	for i, h := range hosts {
		if role[i] != "" || len(h.Keys) < minCommon {
			continue
		}
		best, most := nearest(h, groups, x)
		if own, has := at[h.Role]; has && own != best {
			if like := closeness(h, groups[own].sketch); like >= stays && like+better > most {
				best, most = own, like
			}
		}
		switch {
		case best >= 0 && (most >= joins || most >= stays && groups[best].name == h.Role):
			role[i], near[i] = groups[best].name, min(most, 1000)
			groups[best].members = append(groups[best].members, i)
		case !h.Fresh:
			left = append(left, i)
		}
	}
	return left
}

// found makes new groups of hosts that fit none: each goes to the first that it is like.
func found(hosts []store.HostSketch, left []int, role []string, near []uint32, groups []*group) []*group {
	var fresh []*group
	x, names := index{}, make(map[string]bool)
	for _, g := range groups {
		names[g.name] = true
	}
	for _, i := range left {
		best, most := nearest(hosts[i], fresh, x)
		if best < 0 || most < joins {
			if len(fresh) >= 16*maxSimilar {
				continue
			}
			sum := sha256.Sum256([]byte(hosts[i].ID))
			g := &group{name: similarPrefix + hex.EncodeToString(sum[:3]), sketch: hosts[i].Keys}
			for names[g.name] {
				sum = sha256.Sum256(sum[:])
				g.name = similarPrefix + hex.EncodeToString(sum[:3])
			}
			names[g.name] = true
			x.add(len(fresh), g.sketch)
			best, most = len(fresh), 1000
			fresh = append(fresh, g)
		}
		fresh[best].members = append(fresh[best].members, i)
		near[i] = most
	}
	slices.SortStableFunc(fresh, func(a, b *group) int { return cmp.Compare(len(b.members), len(a.members)) })
	for _, g := range fresh {
		if len(g.members) < minGroup || len(groups) >= maxSimilar {
			break
		}
		for _, i := range g.members {
			role[i] = g.name
		}
		groups = append(groups, g)
	}
	return groups
}

// merge joins groups that have come to do the same: into a stored one, or the larger.
func merge(hosts []store.HostSketch, role []string, near []uint32, groups []*group) []*group {
	for _, g := range groups {
		if !g.stored || len(g.members) >= minLeft {
			g.sketch = common(hosts, g.members)
		}
	}
	slices.SortStableFunc(groups, func(a, b *group) int {
		if a.stored != b.stored {
			if a.stored {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(len(b.members), len(a.members)), cmp.Compare(a.name, b.name))
	})
	var kept []*group
	for _, g := range groups {
		into := slices.IndexFunc(kept, func(k *group) bool { return similarity(k.sketch, g.sketch) >= merges })
		if into < 0 {
			kept = append(kept, g)
			continue
		}
		for _, i := range g.members {
			role[i], near[i] = kept[into].name, min(closeness(hosts[i], kept[into].sketch), 1000)
		}
		kept[into].members = append(kept[into].members, g.members...)
	}
	return kept
}

// common is what at least half of some hosts have in their sketches, as far as all of those reach.
func common(hosts []store.HostSketch, members []int) []uint64 {
	var settled []int
	for _, i := range members {
		if !hosts[i].Fresh {
			settled = append(settled, i)
		}
	}
	if len(settled) == 0 {
		settled = members
	}
	n := min(len(settled), sampled)
	counts, reach := make(map[uint64]int), ^uint64(0)
	for k := range n {
		keys := hosts[settled[k*len(settled)/n]].Keys
		reach = min(reach, reachOf(keys))
		for _, key := range keys {
			counts[key]++
		}
	}
	var sketch []uint64
	for key, times := range counts {
		if 2*times >= n && key <= reach {
			sketch = append(sketch, key)
		}
	}
	slices.Sort(sketch)
	return sketch[:min(len(sketch), store.SketchKeys)]
}

// reachOf is up to which key a sketch says all: a full one ends, another has all that there is.
func reachOf(sketch []uint64) uint64 {
	if len(sketch) < store.SketchKeys {
		return ^uint64(0)
	}
	return sketch[len(sketch)-1]
}

// counted is how many keys each has, and both, as far as both sketches reach.
func counted(a, b []uint64) (inA, inB, both int) {
	reach := min(reachOf(a), reachOf(b))
	for i, j := 0, 0; ; {
		x, y := i < len(a) && a[i] <= reach, j < len(b) && b[j] <= reach
		switch {
		case !x && !y:
			return inA, inB, both
		case x && y && a[i] == b[j]:
			inA, inB, both = inA+1, inB+1, both+1
			i, j = i+1, j+1
		case x && (!y || a[i] < b[j]):
			inA++
			i++
		default:
			inB++
			j++
		}
	}
}

// similarity is the estimated share of common behaviours among all of both, in permille; 0 when
// there are too few to say.
func similarity(a, b []uint64) uint32 {
	inA, inB, both := counted(a, b)
	all := inA + inB - both
	if all < minCommon {
		return 0
	}
	return uint32(both * 1000 / all) //nolint:gosec // at most 1000
}

func packed(sketch []uint64) []byte {
	raw := make([]byte, 0, 8*len(sketch))
	for _, key := range sketch {
		raw = binary.BigEndian.AppendUint64(raw, key)
	}
	return raw
}

func unpacked(raw []byte) (sketch []uint64) {
	for ; len(raw) >= 8; raw = raw[8:] {
		sketch = append(sketch, binary.BigEndian.Uint64(raw))
	}
	return sketch
}
