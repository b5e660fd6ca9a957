package correlate

import (
	"cmp"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// storyKey names a storyline in the fleet: a sensor numbers its own.
type storyKey struct{ host, storyline string }

// String is how an incident lists it.
func (k storyKey) String() string { return k.host + "/" + k.storyline }

// story is what the window holds of one storyline.
type story struct {
	key      storyKey
	hostName string
	findings []*operatorv1.FindingRow // by time, then id
	ids      map[string]bool
	out, in  map[tuple]endpoint
	touched  int64 // when it is looked at for its age: the newest thing in it, or later
	seen     int64 // time of the newest thing in it
	worst    int   // the highest severity of its findings, but for those of a learning host
	// shared is what it may have in common with storylines of other hosts, and when it was seen first.
	shared map[indicator]int64
	// carried is the other end, "HOST/STORYLINE", that it has its mark from; empty: it has none from elsewhere.
	carried string
	// verdict is the investigator's of it, and heard are the findings that it is about; none yet: empty.
	verdict string
	heard   map[string]bool
}

// tuple is a flow as both ends see it: client is who connected.
type tuple struct {
	protocol       uint32
	client, server netip.AddrPort
}

// endpoint is one end's sight of a flow.
type endpoint struct {
	opened, closed int64 // closed 0: it is open, as far as is known
	sent           uint64
	got            uint64
	name           string // what the peer's address was resolved from
	process        *sensorv1.Process
}

// Bounds of the window: beyond them the oldest storyline, finding or flow goes.
// They are far above what an honest day brings and keep the engine below 100 MiB.
const (
	maxStories          = 5000
	maxFindingsPerStory = 200
	maxFlowsPerStory    = 1000
)

// window holds the recent storylines with findings, and which flows join them.
// It is a cache of the store: losing it loses nothing.
type window struct {
	stories map[storyKey]*story
	// byTuple finds the other end of a flow.
	outbound, inbound map[tuple]map[storyKey]bool
	near              near
	sharing           map[indicator]map[storyKey]bool
	pushed            map[pushKey]int // remembered until something changes
	usual             usual           // what the fleet is used to; nil: nothing is
	ages              ages
	// changed are the storylines of which something is new since the last plan.
	changed map[storyKey]bool
	// waiting are storylines whose scores would make them an incident that the investigator has
	// not spoken of yet.
	waiting map[storyKey]bool
	// waits is when the last finding was stored that nobody waits for any more (Unix ns); 0: nobody waits.
	waits   int64
	dropped int
}

func newWindow() *window {
	return &window{
		stories:  make(map[storyKey]*story),
		outbound: make(map[tuple]map[storyKey]bool),
		inbound:  make(map[tuple]map[storyKey]bool),
		near:     newNear(),
		pushed:   make(map[pushKey]int),
		sharing:  make(map[indicator]map[storyKey]bool),
		changed:  make(map[storyKey]bool),
		waiting:  make(map[storyKey]bool),
	}
}

// story is the storyline, made when there is none; at is when it is touched.
func (w *window) story(key storyKey, at int64) *story {
	s := w.stories[key]
	if s == nil {
		if len(w.stories) >= maxStories {
			w.removeOldest()
			w.dropped++
		}
		s = &story{key: key, touched: at, ids: make(map[string]bool), out: make(map[tuple]endpoint), in: make(map[tuple]endpoint), shared: make(map[indicator]int64)}
		w.stories[key] = s
		w.ages.add(s)
	}
	clear(w.pushed)
	s.touched, s.seen = max(s.touched, at), max(s.seen, at)
	return s
}

func (w *window) removeOldest() {
	s := w.ages.oldest()
	w.ages.dropOldest()
	clear(w.pushed)
	for t := range s.out {
		unlink(w.outbound, t, s.key)
		w.near.remove(t, s.key, false)
	}
	for t := range s.in {
		unlink(w.inbound, t, s.key)
		w.near.remove(t, s.key, true)
	}
	for i := range s.shared {
		unlink(w.sharing, i, s.key)
	}
	delete(w.stories, s.key)
	delete(w.changed, s.key)
}

// forget drops the storylines in which nothing happened since the horizon. Those that keep
// names wait longer, since who moves slowly comes back: until nothing happened since patience.
func (w *window) forget(horizon, patience time.Time, keep func(storyKey) bool) {
	for s := w.ages.oldest(); s != nil && s.touched < horizon.UnixNano(); s = w.ages.oldest() {
		if s.seen >= patience.UnixNano() && keep(s.key) {
			s.touched = horizon.Add(lookAgain).UnixNano()
			continue
		}
		w.removeOldest()
	}
}

// lookAgain is after how long a storyline that waits is looked at for its age again.
const lookAgain = time.Hour

// touchHosts has what is known of these hosts told anew.
func (w *window) touchHosts(hosts map[string]bool) {
	if len(hosts) == 0 {
		return
	}
	for key := range w.stories {
		if hosts[key.host] {
			w.changed[key] = true
		}
	}
}

// addFinding takes a finding in; a second time it changes nothing.
func (w *window) addFinding(row *operatorv1.FindingRow) {
	f := row.GetFinding()
	if row.GetHost() == "" || f.GetId() == "" || f.GetStoryline() == "" || row.GetDisposition() == "closed" {
		return
	}
	s := w.story(storyKey{row.GetHost(), f.GetStoryline()}, max(f.GetTime(), row.GetStoredAt()))
	s.hostName = cmp.Or(row.GetHostName(), s.hostName)
	w.changed[s.key] = true
	if !s.ids[f.GetId()] {
		s.ids[f.GetId()] = true
		if !f.GetLearning() {
			s.worst = max(s.worst, severityOf(row))
		}
		at, _ := slices.BinarySearchFunc(s.findings, row, compareRows)
		s.findings = slices.Insert(s.findings, at, row)
		if len(s.findings) > maxFindingsPerStory {
			// Keep the first, which tells how it began, and the newest.
			delete(s.ids, s.findings[1].GetFinding().GetId())
			s.findings = slices.Delete(s.findings, 1, 2)
			w.dropped++
		}
	}
	for _, flow := range f.GetFlows() {
		w.addFlow(s, flow, f.GetProcess())
	}
	if origin := f.GetOrigin(); origin != nil {
		w.addFlow(s, origin, f.GetProcess())
	}
	w.addShared(s, f)
}

// addNote takes a flow of a storyline in. A note may come before its
// storyline's finding: it waits in the window for it.
func (w *window) addNote(host string, at int64, note *sensorv1.FlowNote) {
	if host == "" || note.GetStoryline() == "" || note.GetFlow() == nil {
		return
	}
	s := w.story(storyKey{host, note.GetStoryline()}, at)
	if note.GetCarried() != "" && s.carried == "" {
		s.carried = note.GetCarried()
		w.changed[s.key] = true
	}
	w.addFlow(s, note.GetFlow(), note.GetProcess())
}

func (w *window) addFlow(s *story, flow *sensorv1.Flow, process *sensorv1.Process) {
	t, ok := tupleOf(flow)
	if !ok {
		return
	}
	mine, all := s.out, w.outbound
	if flow.GetInbound() {
		mine, all = s.in, w.inbound
	}
	if known, ok := mine[t]; ok {
		if flow.GetClosed() != 0 && known.closed == 0 {
			known.closed, known.sent, known.got = flow.GetClosed(), flow.GetBytesOut(), flow.GetBytesIn()
			mine[t] = known
			w.changed[s.key] = true
		}
		return
	}
	if len(mine) >= maxFlowsPerStory {
		w.dropped++
		return
	}
	w.changed[s.key] = true
	mine[t] = endpoint{opened: flow.GetOpened(), closed: flow.GetClosed(), sent: flow.GetBytesOut(), got: flow.GetBytesIn(), name: flow.GetName(), process: process}
	w.near.add(t, s.key, flow.GetInbound())
	if all[t] == nil {
		all[t] = make(map[storyKey]bool)
	}
	all[t][s.key] = true
}

func unlink[K comparable](all map[K]map[storyKey]bool, of K, key storyKey) {
	delete(all[of], key)
	if len(all[of]) == 0 {
		delete(all, of)
	}
}

// tupleOf is the flow's identity on both hosts; not ok for what names no two
// hosts (loopback, unspecified or malformed addresses).
func tupleOf(flow *sensorv1.Flow) (tuple, bool) {
	local, ok1 := netip.AddrFromSlice(flow.GetLocal())
	remote, ok2 := netip.AddrFromSlice(flow.GetRemote())
	if !ok1 || !ok2 || flow.GetLocalPort() == 0 || flow.GetRemotePort() == 0 ||
		flow.GetLocalPort() > 0xffff || flow.GetRemotePort() > 0xffff {
		return tuple{}, false
	}
	local, remote = local.Unmap(), remote.Unmap()
	if local.IsLoopback() || remote.IsLoopback() || local.IsUnspecified() || remote.IsUnspecified() {
		return tuple{}, false
	}
	l := netip.AddrPortFrom(local, uint16(flow.GetLocalPort()))
	r := netip.AddrPortFrom(remote, uint16(flow.GetRemotePort()))
	if flow.GetInbound() {
		return tuple{flow.GetProtocol(), r, l}, true
	}
	return tuple{flow.GetProtocol(), l, r}, true
}

// hop is one storyline reaching another host's.
type hop struct {
	from, to storyKey
	flow     tuple
	time     int64
	client   *sensorv1.Process
	server   *sensorv1.Process
}

// maxSkew bounds how far apart the two ends' clocks may see one flow: beyond
// it the same five numbers are a later flow from a reused port.
const maxSkew = 10 * time.Minute

// joined are the hops between a storyline and others, both with findings, that are not
// ordinary work.
func (w *window) joined(s *story) []hop {
	hops := w.hops(s, func(o *story) bool { return len(o.findings) > 0 })
	return slices.DeleteFunc(hops, func(h hop) bool {
		tie := w.weigh([]clue{w.hopClue(h)})
		return !tie.joins()
	})
}

// hops are the exact flows between a storyline and others that count.
func (w *window) hops(s *story, counts func(*story) bool) (hops []hop) {
	if !counts(s) {
		return nil
	}
	for t := range s.out {
		for to := range w.inbound[t] {
			if h, ok := hopOf(s, w.stories[to], t); ok && counts(w.stories[to]) {
				hops = append(hops, h)
			}
		}
	}
	for t := range s.in {
		for from := range w.outbound[t] {
			if h, ok := hopOf(w.stories[from], s, t); ok && counts(w.stories[from]) {
				hops = append(hops, h)
			}
		}
	}
	return hops
}

// hopOf is not ok when the flow does not join the two.
func hopOf(a, b *story, t tuple) (hop, bool) {
	if a.key.host == b.key.host {
		return hop{}, false
	}
	out, in := a.out[t], b.in[t]
	if apart := out.opened - in.opened; out.opened != 0 && in.opened != 0 && (apart > int64(maxSkew) || apart < -int64(maxSkew)) {
		return hop{}, false
	}
	return hop{from: a.key, to: b.key, flow: t, time: cmp.Or(out.opened, in.opened), client: out.process, server: in.process}, true
}

func compareHops(a, b hop) int {
	return cmp.Or(cmp.Compare(a.time, b.time), strings.Compare(a.from.String(), b.from.String()),
		strings.Compare(a.to.String(), b.to.String()), strings.Compare(a.flow.String(), b.flow.String()))
}

func (t tuple) String() string {
	name := map[uint32]string{6: "tcp", 17: "udp"}[t.protocol]
	if name == "" {
		name = fmt.Sprintf("protocol %d", t.protocol)
	}
	return fmt.Sprintf("%s %s → %s", name, t.client, t.server)
}

func compareRows(a, b *operatorv1.FindingRow) int {
	return cmp.Or(cmp.Compare(a.GetFinding().GetTime(), b.GetFinding().GetTime()),
		strings.Compare(a.GetFinding().GetId(), b.GetFinding().GetId()))
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
