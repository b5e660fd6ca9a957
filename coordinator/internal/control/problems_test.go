package control

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var update = flag.Bool("update", false, "write testdata/problems.txt anew")

const problemsGolden = "testdata/problems.txt"

// Ensure what a status says is wrong is what is wrong, gravest first, each with what to
// type next: testdata/problems.txt is to be read by a person.
func TestProblems(t *testing.T) {
	now := time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	at := func(d time.Duration) int64 { return now.Add(d).UnixNano() }
	const year = 365 * 24 * time.Hour
	node := func(id string, change func(*operatorv1.Member)) *operatorv1.Member {
		m := &operatorv1.Member{Id: id, Address: id + ".example.org:7443", Role: "follower", State: "alive", AppliedIndex: 90000, LastContact: at(0),
			Version: "1.4.0", DiskFree: 40 << 30, DiskTotal: 100 << 30, CertificateEnds: at(year / 2)}
		if change != nil {
			change(m)
		}
		return m
	}
	down := func(since time.Duration) func(*operatorv1.Member) {
		return func(m *operatorv1.Member) {
			*m = operatorv1.Member{Id: m.GetId(), Address: m.GetAddress(), State: "unreachable", LastContact: at(-since), AppliedIndex: 80000}
		}
	}
	three := func(change func(*operatorv1.Member)) []*operatorv1.Member {
		return []*operatorv1.Member{node("n1", nil), node("n2", nil), node("n3", change)}
	}
	well := func() *view {
		return &view{now: now, started: now.Add(-48 * time.Hour), self: "n1", leader: "n2", members: three(nil),
			roots: map[string]time.Time{"the cluster's authority": now.Add(9 * year), "the operators' authority": now.Add(9 * year)}}
	}
	order := func(id, state string, hosts int, missing uint32) *operatorv1.Operation {
		return &operatorv1.Operation{Id: id, State: state, Action: "isolate", Hosts: make([]string, hosts), RequestedBy: "operator:bob",
			ApprovalsMissing: missing, Expires: at(time.Hour), WindowEnds: at(90 * time.Second)}
	}
	var got strings.Builder
	for _, tt := range []struct {
		name   string
		change func(*view)
	}{
		{"all is well", func(*view) {}},
		{"a node is down", func(v *view) { v.members = three(down(12 * time.Minute)) }},
		{"one of five is down", func(v *view) {
			v.members = append(three(nil), node("n4", nil), node("n5", down(3*24*time.Hour)))
		}},
		{"down since before this node started", func(v *view) {
			v.members = three(down(0))
			v.members[2].LastContact = 0
		}},
		{"no quorum", func(v *view) {
			v.leader = ""
			v.members = []*operatorv1.Member{node("n1", func(m *operatorv1.Member) {
				m.NotReady = []string{"it knows no leader: an election takes a few seconds"}
			}), node("n2", down(20*time.Second)), node("n3", down(time.Hour))}
		}},
		{"no leader though all answer", func(v *view) { v.leader = "" }},
		{"members not known", func(v *view) { v.members, v.unknown = nil, errors.New("reading state: closed") }},
		{"a node lags behind", func(v *view) { v.members = three(func(m *operatorv1.Member) { m.AppliedIndex = 70000 }) }},
		{"a node takes a snapshot over", func(v *view) {
			v.members = three(func(m *operatorv1.Member) {
				m.NotReady = []string{"it replaces its state by the leader's snapshot: wait, its log tells when it is done"}
			})
		}},
		{"a node differs from the others", func(v *view) {
			v.members = three(func(m *operatorv1.Member) {
				m.NotReady = []string{"its state differs from that of the other nodes, so it serves nobody and takes theirs over: wait, and look after its disk and memory"}
			})
		}},
		{"a node differs and nobody knows who is right", func(v *view) {
			v.members = three(func(m *operatorv1.Member) {
				m.Alarms = []string{"holds another state than n1 and n2 (entries 4000 to 4999, slice), and no majority says which is right, so nothing is changed: take a backup of each, remove the nodes that you trust less and let them join again, empty; then restart this one"}
			})
		}},
		{"a node differed", func(v *view) {
			v.differed = []*operatorv1.AuditEntry{{Subject: "n3", Time: at(-time.Hour)}}
		}},
		{"nodes differed again and again", func(v *view) {
			v.differed = []*operatorv1.AuditEntry{{Subject: "n3", Time: at(-50 * time.Hour)}, {Subject: "n1", Time: at(-5 * time.Hour)}, {Subject: "n3", Time: at(-time.Hour)}}
		}},
		{"a disk is nearly full", func(v *view) { v.members = three(func(m *operatorv1.Member) { m.DiskFree = 300 << 20 }) }},
		{"a large disk is nearly full", func(v *view) { v.members = three(func(m *operatorv1.Member) { m.DiskFree = 4 << 30 }) }},
		{"a clock is ahead", func(v *view) {
			v.members = three(func(m *operatorv1.Member) { m.ClockOffset = int64(75 * time.Second) })
		}},
		{"a clock is behind", func(v *view) {
			v.members = three(func(m *operatorv1.Member) { m.ClockOffset = -int64(2500 * time.Millisecond) })
		}},
		{"a clock is right enough", func(v *view) { v.members = three(func(m *operatorv1.Member) { m.ClockOffset = int64(time.Second) }) }},
		{"a node's certificate ends", func(v *view) {
			v.members = three(func(m *operatorv1.Member) { m.CertificateEnds = at(5 * 24 * time.Hour) })
		}},
		{"a node's certificate has ended", func(v *view) { v.members = three(func(m *operatorv1.Member) { m.CertificateEnds = at(-time.Hour) }) }},
		{"an authority ends", func(v *view) { v.roots["the cluster's authority"] = now.Add(100 * 24 * time.Hour) }},
		{"versions differ", func(v *view) { v.members = three(func(m *operatorv1.Member) { m.Version = "1.3.2" }) }},
		{"an older node says nothing of itself", func(v *view) {
			v.members = three(func(m *operatorv1.Member) { m.Version, m.DiskFree, m.DiskTotal, m.CertificateEnds = "", 0, 0, 0 })
		}},
		{"two nodes", func(v *view) { v.members = three(nil)[:2] }},
		{"orders wait", func(v *view) {
			v.waiting = []*operatorv1.Operation{order("op-aaaaaaaaaaaa", store.OrderWaiting, 40, 1), order("op-bbbbbbbbbbbb", store.OrderWindow, 1, 0), order("op-cccccccccccc", "expired", 1, 1)}
		}},
		{"many orders wait", func(v *view) {
			for _, id := range []string{"op-1", "op-2", "op-3", "op-4", "op-5"} {
				v.waiting = append(v.waiting, order(id, store.OrderWaiting, 1, 2))
			}
		}},
		{"automation is off", func(v *view) { v.intent = &sensorv1.Intent{AutomationOff: true, Version: 7, IssuedAt: at(-time.Hour)} }},
		{"hosts", func(v *view) {
			v.quiet = store.Quiet{Silent: 5, Names: []string{"web1", "web2", "db1"}, Blind: 1, BlindNames: []string{"app1: a program was detached"}, Lossy: 2, Lost: 71}
		}},
		{"too large", func(v *view) { v.quiet = store.Quiet{Cut: 500, CutAt: at(-time.Hour)} }},
		{"watchers", func(v *view) { v.dropped = 3 }},
		{"a bad night", func(v *view) {
			v.members = []*operatorv1.Member{node("n1", func(m *operatorv1.Member) {
				m.DiskFree = 10 << 20
				m.NotReady = []string{"its disk is full (10 MiB left): make room, it goes on by itself"}
			}), node("n2", nil), node("n3", down(5*time.Hour))}
			v.quiet = store.Quiet{Silent: 1, Names: []string{"db1"}}
			v.waiting = []*operatorv1.Operation{order("op-aaaaaaaaaaaa", store.OrderWaiting, 40, 1)}
			v.intent = &sensorv1.Intent{AutomationOff: true, Version: 7, IssuedAt: at(-time.Hour)}
		}},
	} {
		v := well()
		tt.change(v)
		got.WriteString("== " + tt.name + "\n")
		for _, problem := range v.problems() {
			got.WriteString("- " + problem + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(problemsGolden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(problemsGolden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
