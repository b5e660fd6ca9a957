package correlate

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What evidence weighs, in natural log-odds: that two storylines of different hosts are one
// piece of work, against their being two. Fixed before the evaluation's seeds were run; see
// coordinator/DESIGN.md, Campaigns, for where each comes from.
const (
	// prior: of a hundred pairs of suspect storylines in one day one belongs together.
	prior = -4.6
	// flowWeight: both ends saw the same five numbers within ten minutes.
	flowWeight = 9
	// natWeight: the same server at the same time, or the same client to a server that was
	// translated (sameWeight on top); each other connection that it could be takes its share.
	natWeight, sameWeight, portWeight, bytesWeight = 5.5, 3, 1.5, 2
	// relayWeight: a session to a host while another came from there.
	relayWeight = 5
	// indicatorShare: how often one piece of work shows the same program, domain or peer on
	// two of its hosts.
	indicatorShare = 0.3
	// What is usual: a connection that this program of that host makes since days, and a
	// program that reaches many hosts at this port.
	maxUsual, maxHub = 7, 4
	usualCount       = 3
	hubPeers         = 8
	// pushed: one session that reached so many hosts, nowhere more than something new.
	pushPeers, pushWeight = 5, 7
)

// usualAfter is how long before a flow a habit must have begun. Whoever breaks in today has none.
const usualAfter = 24 * time.Hour

// anomaly is what findings at both ends add, by the lesser of their severities: ordinary work
// that is found anomalous where it begins is rarely so where it goes, too.
var anomaly = []float64{0, 0, 2, 6, 8}

// enters are the services by which somebody runs what they like on a host. A connection to
// another, to an end where nothing is found, is use of a service.
var enters = map[uint16]bool{22: true, 23: true, 135: true, 445: true, 512: true, 513: true, 514: true, 2222: true, 2375: true, 2376: true,
	3389: true, 5900: true, 5985: true, 5986: true, 6443: true, 10250: true}

const serviceWeight = 5

// usual says what the fleet is used to.
type usual interface {
	// Edge is a host's habit: a program of it that connects to a peer (by address or name) at a port.
	Edge(host, image string, flow tuple, name string, before int64) habit
	// Hosts is on how many hosts an indicator is usual, and Fleet how many there are.
	Hosts(i indicator) int
	Fleet() int
}

// habit is how often a program of a host connected to a peer before a time, since when, and how many
// others it reaches at that port.
type habit struct {
	Count uint64
	Since int64
	Peers int
}

// term is one addend of a weight. Most are weighed and never told, so its text is made when
// somebody asks.
type term struct {
	weight float64
	format string
	args   []any
}

func (t term) text() string   { return line(t.format, t.args...) }
func (t term) String() string { return fmt.Sprintf("%+.1f %s", t.weight, t.text()) }

// tie is the evidence that two storylines of different hosts are one piece of work.
type tie struct {
	from, to storyKey
	best     clue // the strongest evidence
	weight   float64
	terms    []term
}

func (t *tie) joins() bool { return t.weight > 0 }

// clue is one piece of evidence.
type clue struct {
	from, to storyKey
	kind     string
	time     int64
	term     term
	client   *sensorv1.Process
	server   *sensorv1.Process
	flow     tuple // as the client sees it; none: no connection
	far      tuple // as the server does, where that is another
	name     string
	shared   indicator
}

func (c clue) network() bool { return c.flow != tuple{} }

func (c clue) evidence() string {
	switch {
	case !c.network():
		return c.shared.text()
	case c.far != tuple{}:
		return line("%s there, %s here (%s → %s)", c.flow, c.far, imageText(c.client), imageText(c.server))
	}
	return line("%s (%s → %s)", c.flow, imageText(c.client), imageText(c.server))
}

func compareClues(a, b clue) int {
	return cmp.Or(cmp.Compare(b.term.weight, a.term.weight), cmp.Compare(a.time, b.time), strings.Compare(a.kind, b.kind),
		compareKeys(a.from, b.from), a.flow.client.Compare(b.flow.client), a.flow.server.Compare(b.flow.server),
		a.far.client.Compare(b.far.client), a.far.server.Compare(b.far.server), strings.Compare(a.shared.value, b.shared.value))
}

// weigh sums what speaks for and against: the strongest clue in full and the others by half,
// since one program brings its domain and its peer with it.
func (w *window) weigh(clues []clue) tie {
	slices.SortFunc(clues, compareClues)
	best := clues[0]
	t := tie{from: best.from, to: best.to, best: best, terms: []term{best.term, {prior, "most suspect pairs are two pieces of work", nil}}}
	kinds := map[string]bool{best.kind: true}
	for _, c := range clues[1:] {
		if !kinds[c.kind] && c.term.weight > 0 {
			kinds[c.kind] = true
			t.terms = append(t.terms, term{c.term.weight / 2, "half of: %s (%s)", []any{lazy(c.term.text), lazy(c.evidence)}})
		}
	}
	if best.network() {
		t.terms = append(t.terms, w.habits(best)...)
		lesser := min(w.worst(best.from), w.worst(best.to))
		if anomaly[lesser] > 0 {
			t.terms = append(t.terms, term{anomaly[lesser], "both ends have findings of severity %s or above", []any{severities[lesser]}})
		}
		if s := w.stories[best.to]; s != nil && len(s.findings) == 0 && !enters[best.flow.server.Port()] {
			t.terms = append(t.terms, term{-serviceWeight, "nothing is found where it went, to a service (port %d) that runs nobody's programs", []any{best.flow.server.Port()}})
		}
	}
	for _, x := range t.terms {
		t.weight += x.weight
	}
	t.weight = math.Round(t.weight*10) / 10
	return t
}

// lazy is a text that is made when it is printed.
type lazy func() string

func (l lazy) String() string { return l() }

// habits are the terms that speak for ordinary work.
func (w *window) habits(c clue) (terms []term) {
	image := lazy(func() string { return imageText(c.client) })
	if w.usual != nil {
		h := w.usual.Edge(c.from.host, string(c.client.GetImage()), c.flow, c.name, c.time-int64(usualAfter))
		if h.Count >= usualCount {
			terms = append(terms, term{-min(maxUsual, 1+math.Log(1+float64(h.Count))), "%s connects there since %s, %d times", []any{image, lazy(func() string { return clock(h.Since) }), h.Count}})
		}
		if h.Peers >= hubPeers {
			terms = append(terms, term{-min(maxHub, math.Log(float64(h.Peers))), "%s reaches %d hosts at port %d from there, as it is used to", []any{image, h.Peers, c.flow.server.Port()}})
		}
	}
	if s := w.stories[c.from]; s != nil && w.worst(c.from) < high && w.worst(c.to) < high {
		if n := w.pushes(s, c.flow.server.Port()); n >= pushPeers {
			terms = append(terms, term{-pushWeight, "one session reached %d hosts, and nowhere is more than something new", []any{n}})
		}
	}
	return terms
}

// pushKey is a storyline and a port.
type pushKey struct {
	key  storyKey
	port uint16
}

// pushes is how many hosts a storyline reached at a port when none of them shows more than
// novelty or goes on to others. It is the same for all of them until something changes.
func (w *window) pushes(s *story, port uint16) int {
	key := pushKey{s.key, port}
	if n, known := w.pushed[key]; known {
		return n
	}
	w.pushed[key] = w.countPushes(s, port)
	return w.pushed[key]
}

func (w *window) countPushes(s *story, port uint16) int {
	hosts := make(map[netip.Addr]bool)
	for t := range s.out {
		if t.server.Port() != port {
			continue
		}
		hosts[t.server.Addr()] = true
		for to := range w.inbound[t] {
			if w.worst(to) >= high || w.goesOn(w.stories[to]) {
				return 0
			}
		}
	}
	return len(hosts)
}

// goesOn says whether another host's suspect storyline accepted what this one opened.
func (w *window) goesOn(s *story) bool {
	for t := range s.out {
		for to := range w.inbound[t] {
			if to.host != s.key.host && len(w.stories[to].findings) > 0 {
				return true
			}
		}
	}
	return false
}

// worst is the highest severity of a storyline's findings; what is found while a host learns
// says nothing.
func (w *window) worst(key storyKey) int {
	if s := w.stories[key]; s != nil {
		return s.worst
	}
	return 0
}

func (w *window) hostName(host string, of storyKey) string {
	if s := w.stories[of]; s != nil && s.hostName != "" {
		return s.hostName
	}
	return host
}

// hopClue is an exact flow as evidence.
func (w *window) hopClue(h hop) clue {
	c := clue{from: h.from, to: h.to, kind: "flow", time: h.time, client: h.client, server: h.server, flow: h.flow, name: w.stories[h.from].out[h.flow].name,
		term: term{flowWeight, "both ends saw the same addresses and ports", nil}}
	if w.stories[h.to].carried != "" && w.stories[h.to].carried == h.from.String() {
		c.kind = "taint"
		c.term.format = "the mark came with the connection: the far end found who accepted exactly these addresses and ports"
	}
	return c
}

// nearClue is a translated connection as evidence.
func (w *window) nearClue(p translated) clue {
	from, to := w.stories[p.out.key].out[p.out.flow], w.stories[p.in.key].in[p.in.flow]
	c := clue{from: p.out.key, to: p.in.key, kind: p.kind, time: from.opened, client: from.process, server: to.process, flow: p.out.flow, far: p.in.flow, name: from.name}
	weight, text := natWeight, "the same server within three seconds"
	var args []any
	switch {
	case p.kind == "relay":
		weight, text, args = relayWeight, "it came from %s while the other had a session there", []any{p.in.flow.client.Addr()}
	case p.same:
		weight, text = natWeight+sameWeight, "the same client's address and port, another server's"
	}
	if p.port && !p.same {
		weight, text = weight+portWeight, text+", the same client's port"
	}
	if p.bytes {
		weight, text = weight+bytesWeight, text+", as many bytes"
	}
	if p.rivals > 0 {
		weight, text, args = weight-math.Log(1+float64(p.rivals)), text+", which %d others might be too", append(args, p.rivals)
	}
	c.term = term{weight, text, args}
	return c
}

// sharedClue is an indicator that two incidents have in common; not ok when it is usual.
func (w *window) sharedClue(a, b *story, i indicator) (clue, bool) {
	fleet, seen := 1, 0
	if w.usual != nil {
		fleet, seen = w.usual.Fleet(), w.usual.Hosts(i)
	}
	suspect := make(map[string]bool)
	for key := range w.sharing[i] {
		suspect[key.host] = true
	}
	// A host on which it is suspect counts a quarter: what spreads is on many such.
	hosts := float64(max(0, seen-len(suspect))) + math.Max(1, float64(len(suspect))/4)
	weight := math.Log(indicatorShare * float64(fleet) / hosts)
	if weight <= 0 {
		return clue{}, false
	}
	first, second := a, b
	if at, bt := a.shared[i], b.shared[i]; bt < at || bt == at && b.key.String() < a.key.String() {
		first, second = b, a
	}
	return clue{from: first.key, to: second.key, kind: i.kind, time: second.shared[i], shared: i,
		term: term{weight, "on %d of %d hosts, %d of them suspect", []any{max(seen, len(suspect)), fleet, len(suspect)}}}, true
}
