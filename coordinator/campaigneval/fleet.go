package campaigneval

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/engine/correlate"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	week     = 7 * 24 * time.Hour
	sshImage = "/usr/bin/ssh"
)

var start = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// record is one thing that was told of a host at a time.
type record struct {
	at   time.Time
	host int
	row  *operatorv1.FindingRow
	note *sensorv1.FlowNote
}

// attack is what a campaign truly is.
type attack struct {
	kind   string
	hosts  map[string]bool
	last   time.Time // of its last record
	joined time.Time // when one campaign had all its hosts
	one    bool      // whether one has them at the end, and no other any
}

// storyKey is a storyline of a host.
type storyKey struct{ host, storyline string }

type edgeKey struct {
	host  int
	image string
	peer  netip.Addr
	port  uint16
}

// fleet is hosts with their habits, a week of what is found on them, and the attacks in it. It
// makes what sensors would tell, findings and flow notes with the marks that connections carry,
// and nothing of the engine's. A seed is a week.
type fleet struct {
	r       *rand.Rand
	n       int
	records []record
	attacks []*attack
	habits  map[edgeKey]correlate.Habit
	peers   map[edgeKey]int // of a host's image and port; peer is unset
	seen    map[string]int  // on how many hosts an indicator's object is usual
	owners  map[storyKey]*attack
	links   []link
	taken   []int // by attacks
	serial  int
}

// link is a connection between two storylines, and whether its host ever made such before:
// all that the simplest rule sees.
type link struct {
	from, to     storyKey
	fresh, alike bool
}

// Hubs stand at the beginning of the fleet.
const (
	managers    = 3
	backupHost  = 3
	monitor     = 4
	bastionHost = 5 // 5, 6, 7
	runner      = 8
	first       = 10
)

func newFleet(seed uint64, n int) *fleet {
	f := &fleet{r: rand.New(rand.NewPCG(seed, 11)), n: n, habits: map[edgeKey]correlate.Habit{}, peers: map[edgeKey]int{}, seen: map[string]int{}, owners: map[storyKey]*attack{}}
	f.learn()
	f.benign()
	f.strike()
	slices.SortStableFunc(f.records, func(a, b record) int { return a.at.Compare(b.at) })
	return f
}

func (f *fleet) id(i int) string { return fmt.Sprintf("h-%04d", i) }

func (f *fleet) addr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 20, byte(i >> 8), byte(i)})
}

func (f *fleet) chance(p float64) bool { return f.r.Float64() < p }

func (f *fleet) when() time.Time {
	return start.Add(time.Duration(f.r.Int64N(int64(week - 2*time.Hour))))
}

// some are n other hosts that are no hubs.
func (f *fleet) some(n int, not ...int) (hosts []int) {
	for len(hosts) < n {
		i := first + f.r.IntN(f.n-first)
		if !slices.Contains(hosts, i) && !slices.Contains(not, i) {
			hosts = append(hosts, i)
		}
	}
	return hosts
}

// victims are hosts of an attack; each is in one attack of the week only.
func (f *fleet) victims(n int) []int {
	hosts := f.some(n, f.taken...)
	f.taken = append(f.taken, hosts...)
	return hosts
}

func (f *fleet) habit(host int, image string, peer int, port uint16, count uint64, days int) {
	key := edgeKey{host, image, f.addr(peer), port}
	if _, known := f.habits[key]; !known {
		f.peers[edgeKey{host, image, netip.Addr{}, port}]++
	}
	f.habits[key] = correlate.Habit{Count: count, Since: start.Add(-time.Duration(days) * 24 * time.Hour).UnixNano()}
}

// learn is what the fleet was used to before the week.
func (f *fleet) learn() {
	for i := first; i < f.n; i++ {
		for m := range managers {
			if i%managers == m && !f.chance(0.03) { // a few hosts are new to their manager
				f.habit(m, sshImage, i, 22, 30, 30)
			}
		}
		if !f.chance(0.03) {
			f.habit(backupHost, sshImage, i, 22, 30, 30)
		}
		f.habit(monitor, "/usr/lib/monitor/check", i, 5666, 8000, 30)
		for b := range 3 {
			if f.chance(0.4) {
				f.habit(bastionHost+b, sshImage, i, 22, uint64(3+f.r.IntN(40)), 60)
			}
		}
		if i%4 == 1 && !f.chance(0.05) {
			f.habit(runner, sshImage, i, 22, uint64(5+f.r.IntN(60)), 60)
		}
		for range 3 { // ordinary services
			f.habit(i, "/usr/bin/java", first+f.r.IntN(f.n-first), 5432, 90_000, 60)
		}
	}
	f.seen["/bin/sh"], f.seen["/usr/bin/python3"], f.seen[sshImage] = f.n, f.n*9/10, f.n
	f.seen["example.org"], f.seen["example.net"] = f.n, f.n/3
	f.seen["in tcp 10.99.0.1 22"] = f.n / 10 // the gateway's other users
	for b := range 3 {
		f.seen["in tcp "+f.addr(bastionHost+b).String()+" 22"] = f.n * 2 / 5
	}
	f.seen["in tcp "+f.addr(runner).String()+" 22"] = f.n / 4
	for m := range managers {
		f.seen["in tcp "+f.addr(m).String()+" 22"] = f.n / 3
	}
}

// Reach, Hosts and Fleet are what the store would say.
func (f *fleet) Reach(host, image string, server netip.AddrPort) (h correlate.Habit) {
	var i int
	_, _ = fmt.Sscanf(host, "h-%d", &i)
	h = f.habits[edgeKey{i, image, server.Addr(), server.Port()}]
	h.Peers = f.peers[edgeKey{i, image, netip.Addr{}, server.Port()}]
	return h
}

func (f *fleet) Hosts(object string) int { return f.seen[object] }
func (f *fleet) Fleet() int              { return f.n }

// work is a storyline of a host.
type work struct {
	f       *fleet
	host    int
	name    string
	tainted bool // it has a finding, or another's mark
	attack  *attack
	origin  *sensorv1.Flow
	login   *sensorv1.Login
}

func (f *fleet) work(host int, a *attack) *work {
	f.serial++
	if a != nil {
		a.hosts[f.id(host)] = true
	}
	w := &work{f: f, host: host, name: fmt.Sprintf("%d.%d", 1000+f.serial, f.serial), attack: a}
	if a != nil {
		f.owners[w.key()] = a
	}
	return w
}

func (s *work) key() storyKey { return storyKey{s.f.id(s.host), s.name} }

func (s *work) add(r record) {
	r.host = s.host
	if s.attack != nil && r.at.After(s.attack.last) {
		s.attack.last = r.at
	}
	s.f.records = append(s.f.records, r)
}

type mark func(*sensorv1.Finding)

func program(image string, secret string) mark {
	return func(f *sensorv1.Finding) {
		sum := sha256.Sum256([]byte(image + secret))
		f.Process.Image, f.Process.Sha256 = []byte(image), sum[:]
	}
}

func asks(domain string) mark {
	return func(f *sensorv1.Finding) { f.Lookups = append(f.Lookups, domain) }
}

func speaks(peer string) mark {
	return func(f *sensorv1.Finding) {
		f.Flows = append(f.Flows, &sensorv1.Flow{Protocol: 6, Local: []byte{10, 0, 0, 1}, LocalPort: 40000, Remote: netip.MustParseAddr(peer).AsSlice(), RemotePort: 443, Opened: f.Time})
	}
}

// finds has a finding at a time.
func (s *work) finds(at time.Time, severity string, score float64, marks ...mark) {
	s.tainted = s.tainted || severity != "low"
	s.f.serial++
	fd := &sensorv1.Finding{Id: fmt.Sprintf("%08d", s.f.serial), Time: at.UnixNano(), Title: "Something new", Severity: severity, Score: score, Kind: "new-exec",
		Storyline: s.name, Origin: s.origin, Login: s.login, Process: &sensorv1.Process{Pid: 7, Image: []byte("/bin/sh"), User: "u"}, Techniques: []string{"T1059"}}
	for _, m := range marks {
		m(fd)
	}
	s.add(record{at: at, row: &operatorv1.FindingRow{Host: s.f.id(s.host), HostName: s.f.id(s.host), Disposition: "new", StoredAt: at.UnixNano(), Finding: fd}})
}

// way is how a connection is seen at its other end.
type way int

const (
	seenAlike   way = iota
	translated1     // the client's address is another at the server
	unseen          // nobody's note of it comes
)

// goes opens a connection to another host and is the storyline that serves it there.
func (s *work) goes(at time.Time, to int, image string, port uint16, user string, how way) *work {
	f := s.f
	next := f.work(to, s.attack)
	f.serial++
	client, server := f.addr(s.host), f.addr(to)
	sport := uint32(32768 + f.r.IntN(28000))
	skew := time.Duration(f.r.Int64N(int64(200 * time.Millisecond)))
	sent := uint64(2000 + f.r.IntN(50_000))
	out := &sensorv1.Flow{Protocol: 6, Local: client.AsSlice(), LocalPort: sport, Remote: server.AsSlice(), RemotePort: uint32(port), Opened: at.UnixNano(), BytesOut: sent, BytesIn: sent / 2}
	in := &sensorv1.Flow{Protocol: 6, Inbound: true, Local: server.AsSlice(), LocalPort: uint32(port), Remote: client.AsSlice(), RemotePort: sport,
		Opened: at.Add(skew).UnixNano(), BytesIn: sent, BytesOut: sent / 2}
	if how == translated1 {
		in.Remote, in.RemotePort = netip.MustParseAddr("10.99.0.1").AsSlice(), uint32(32768+f.r.IntN(28000))
	}
	next.origin = in
	next.login = &sensorv1.Login{User: user, Source: in.Remote}
	if _, usual := f.habits[edgeKey{s.host, image, server, port}]; how != unseen {
		f.links = append(f.links, link{s.key(), next.key(), !usual, how == seenAlike})
	}
	if how == unseen {
		next.origin, next.login = nil, nil
		return next
	}
	if s.tainted { // its flows are noted, and the mark goes with them
		s.add(record{at: at.Add(30 * time.Millisecond), note: &sensorv1.FlowNote{Storyline: s.name, Process: &sensorv1.Process{Image: []byte(image)}, Flow: out}})
		closed := proto.CloneOf(out)
		closed.Closed = at.Add(time.Minute).UnixNano()
		s.add(record{at: at.Add(time.Minute), note: &sensorv1.FlowNote{Storyline: s.name, Process: &sensorv1.Process{Image: []byte(image)}, Flow: closed}})
		server := &sensorv1.Process{Image: []byte("/usr/sbin/sshd")}
		if how == seenAlike {
			next.tainted = true
			next.add(record{at: at.Add(300 * time.Millisecond), note: &sensorv1.FlowNote{Storyline: next.name, Process: server, Flow: in, Carried: f.id(s.host) + "/" + s.name}})
		}
		closedIn := proto.CloneOf(in)
		closedIn.Closed = at.Add(time.Minute + skew).UnixNano()
		next.add(record{at: at.Add(time.Minute + 50*time.Millisecond), note: &sensorv1.FlowNote{Storyline: next.name, Process: server, Flow: closedIn}})
	}
	return next
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }
