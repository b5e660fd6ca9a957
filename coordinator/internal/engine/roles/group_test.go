package roles

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func key(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// doing is a host that does what its role does, but for a tenth of it, and some of its own; shared is
// how much of that all roles do.
func doing(id, role string, behaviours, shared int, random *rand.Rand) store.HostSketch {
	h := store.HostSketch{ID: id}
	for i := range behaviours {
		if random.IntN(10) == 0 {
			continue
		}
		of := role
		if i < shared {
			of = "all"
		}
		h.Keys = append(h.Keys, key(fmt.Sprintf("%s %d", of, i)))
	}
	for i := range behaviours / 10 {
		h.Keys = append(h.Keys, key(fmt.Sprintf("%s %d", id, i)))
	}
	slices.Sort(h.Keys)
	h.Keys = h.Keys[:min(len(h.Keys), store.SketchKeys)]
	return h
}

func fleet(each int, seed uint64, roles ...string) (hosts []store.HostSketch) {
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range each {
		for _, role := range roles {
			hosts = append(hosts, doing(fmt.Sprintf("h-%s-%d", role, i), role, 1000, 300, random))
		}
	}
	return hosts
}

// settle applies a plan, as state does, and says how much it changed.
func settle(hosts []store.HostSketch, have []*raftv1.RoleGroup, change *raftv1.SetRoles) []*raftv1.RoleGroup {
	for _, name := range change.GetDissolved() {
		have = slices.DeleteFunc(have, func(g *raftv1.RoleGroup) bool { return g.GetName() == name })
	}
	for _, g := range change.GetGroups() {
		have = slices.DeleteFunc(have, func(had *raftv1.RoleGroup) bool { return had.GetName() == g.GetName() })
		have = append(have, g)
	}
	for _, to := range change.GetHosts() {
		for i := range hosts {
			if hosts[i].ID == to.GetHost() {
				hosts[i].Role = to.GetRole()
			}
		}
	}
	return have
}

// Ensure hosts that do the same are found, that their groups keep their names when looked at again,
// when hosts come, and when what they do moves, and end with their hosts.
func TestSimilar(t *testing.T) {
	hosts := fleet(20, 1, "web", "db", "ci")
	have := settle(hosts, nil, plan(hosts, nil))
	names := map[string]string{}
	check := func(when string, hosts []store.HostSketch, have []*raftv1.RoleGroup, roles int) {
		t.Helper()
		if len(have) != roles {
			t.Fatalf("%s: %d groups, want %d", when, len(have), roles)
		}
		for _, h := range hosts {
			var role string
			var n int
			if _, err := fmt.Sscanf(h.ID, "h-%2s", &role); err != nil {
				t.Fatal(err, n)
			}
			if names[role] == "" {
				names[role] = h.Role
			}
			if h.Role == "" || h.Role != names[role] {
				t.Fatalf("%s: %s has role %q, its group is %q", when, h.ID, h.Role, names[role])
			}
		}
		if again := plan(hosts, have); len(again.GetHosts())+len(again.GetGroups())+len(again.GetDissolved()) > 0 {
			t.Fatalf("%s: looked at again, it changes: %v", when, again)
		}
	}
	check("at first", hosts, have, 3)
	more := fleet(30, 2, "web", "db", "ci") // the same ones, a little different, and ten more of each
	for i := range hosts {
		more[i].Role = hosts[i].Role
	}
	have = settle(more, have, plan(more, have))
	check("with more hosts", more, have, 3)
	slices.Reverse(more)
	check("in another order", more, have, 3)
	left := slices.DeleteFunc(more, func(h store.HostSketch) bool { return h.ID[:4] == "h-db" })
	have = settle(left, have, plan(left, have))
	check("without db", left, have, 2)
}

// Ensure an operators' label places a host, its own places it nowhere, and no label names a group that
// was found.
func TestLabels(t *testing.T) {
	hosts := fleet(5, 1, "web")
	for i := range 2 {
		hosts[i].Label = "front"
	}
	hosts[2].Own = "front"
	hosts = append(hosts, store.HostSketch{ID: "h-evil", Label: "", Own: "front"}, store.HostSketch{ID: "h-named", Label: similarPrefix + "abcdef"})
	have := settle(hosts, nil, plan(hosts, nil))
	for i, want := range []string{"front", "front"} {
		if hosts[i].Role != want {
			t.Errorf("host %d: role %q, want %q", i, hosts[i].Role, want)
		}
	}
	if hosts[2].Role == "front" || hosts[2].Role == "" || hosts[2].Role != hosts[3].Role {
		t.Errorf("a host's own label counts: %q, its peers have %q", hosts[2].Role, hosts[3].Role)
	}
	if hosts[5].Role != "" || hosts[6].Role != "" {
		t.Errorf("roles %q and %q of hosts that do nothing", hosts[5].Role, hosts[6].Role)
	}
	for i := range hosts {
		hosts[i].Label = ""
	}
	have = settle(hosts, have, plan(hosts, have))
	if len(have) != 1 || hosts[0].Role != hosts[3].Role {
		t.Errorf("without labels: %d groups, %q and %q", len(have), hosts[0].Role, hosts[3].Role)
	}
}

// Ensure a fresh host that does little yet is placed by what it does, and makes no group.
func TestFresh(t *testing.T) {
	hosts := fleet(5, 1, "web", "db")
	have := settle(hosts, nil, plan(hosts, nil))
	fresh := doing("h-web-new", "web", 1000, 300, rand.New(rand.NewPCG(9, 9)))
	fresh.Fresh = true
	var some []uint64
	for i, k := range fresh.Keys {
		if i%4 == 0 {
			some = append(some, k)
		}
	}
	fresh.Keys = some
	stranger := store.HostSketch{ID: "h-x", Fresh: true}
	for i := range 40 {
		stranger.Keys = append(stranger.Keys, key(fmt.Sprint("strange ", i)))
	}
	slices.Sort(stranger.Keys)
	hosts = append(hosts, fresh, stranger, stranger, stranger)
	have = settle(hosts, have, plan(hosts, have))
	if got, want := hosts[10].Role, hosts[0].Role; got != want || want == "" {
		t.Errorf("a fresh web host has role %q, its peers %q", got, want)
	}
	if hosts[11].Role != "" || len(have) != 2 {
		t.Errorf("strangers have role %q, there are %d groups", hosts[11].Role, len(have))
	}
}

// Ensure 50,000 hosts are placed; prints how long it takes.
func BenchmarkPlan(b *testing.B) {
	var roles []string
	for i := range 50 {
		roles = append(roles, fmt.Sprintf("r%d", i))
	}
	hosts := fleet(1000, 1, roles...)
	have := settle(hosts, nil, plan(hosts, nil))
	for b.Loop() {
		plan(hosts, have)
	}
	b.ReportMetric(float64(len(hosts)), "hosts")
	b.ReportMetric(float64(len(have)), "groups")
}
