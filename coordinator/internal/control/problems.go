package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Below these a node will soon be unable to write: raft's log and a snapshot
// beside the database need room.
const (
	lowDiskBytes   = 512 << 20
	lowDiskPercent = 5
)

const (
	// clockApart is how far two nodes' clocks may differ: times of silences and of leases
	// are compared in seconds.
	clockApart = 2 * time.Second
	// endsSoon is how long before its end a certificate is a problem. A node renews its own
	// at half of its life, a year, so that this is half a year after it should have.
	endsSoon = 14 * 24 * time.Hour
	// rootEndsSoon is the same of an authority, of which everything else hangs.
	rootEndsSoon = 180 * 24 * time.Hour
	// shownCut is how long a status tells that the state was too large.
	shownCut = 7 * 24 * time.Hour
	// shownDiffered is how long a status tells that a node held another state.
	shownDiffered = 7 * 24 * time.Hour
	// namedOrders is how many orders that wait are named: all of it must fit on a screen.
	namedOrders = 3
)

// view is what a node knows when it is asked what is wrong.
type view struct {
	now     time.Time
	started time.Time // of this node's process
	self    string    // id of the node that answers
	leader  string    // "" without one, or when too many do not answer
	members []*operatorv1.Member
	unknown error // why the members are not known

	quiet   store.Quiet
	signed  *sensorv1.SignedNodes
	intent  *sensorv1.Intent // nil: none was ever applied
	waiting []*operatorv1.Operation
	// roots are the ends of the authorities' certificates, by what they are called.
	roots   map[string]time.Time
	dropped uint64
	// differed are the audit's entries about nodes that took the others' state over, oldest first.
	differed []*operatorv1.AuditEntry
}

// problems are what is wrong and what to do, gravest first, a sentence or two each; no
// more of them than fit on a screen, however large the fleet is.
func (v *view) problems() []string {
	all := v.ofNodes()
	if said := nodesProblem(v.signed, v.members, v.now); said != "" {
		all = append(all, said)
	}
	all = append(all, v.ofWork()...)
	all = append(all, v.ofHosts()...)
	if at := time.Unix(0, v.quiet.CutAt); v.quiet.Cut > 0 && v.now.Sub(at) < shownCut {
		all = append(all, fmt.Sprintf("%s removed before their time since the state is above its size, at %s last: raise 'retention.max_gib' at every node, or shorten what it keeps; 'vedette host list -o wide' says who tells so much.",
			verb(uint64(v.quiet.Cut), "finding, flow or part of the history was", "findings, flows and parts of the history were"), clock(v.quiet.CutAt)))
	}
	if v.dropped > 0 {
		all = append(all, fmt.Sprintf("%s not shown to watchers of node %s that read too slowly; the lists have all of them.", verb(v.dropped, "event was", "events were"), v.self))
	}
	return all
}

// ofNodes are the problems of the cluster itself.
func (v *view) ofNodes() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	voting := voters(v.members)
	dead, total := count(voting, "unreachable"), len(voting)
	switch {
	case v.unknown != nil:
		say("The state of the nodes is not known (%v): run 'journalctl -u vedette-coordinator' at node %s.", v.unknown, v.self)
	case total > 0 && 2*(total-dead) <= total:
		say("%d of %d nodes do not answer node %s, so nothing can be written: start the nodes that are down, a majority must run and reach each other. Sensors go on and keep what they have to say.", dead, total, v.self)
	case v.leader == "":
		say("The cluster has no leader, so nothing can be written: an election takes a few seconds; if this stays, a majority of the nodes cannot reach each other (UDP): run 'journalctl -u vedette-coordinator' at each.")
	}
	var newest uint64
	for _, m := range v.members {
		newest = max(newest, m.GetAppliedIndex())
	}
	for _, m := range v.members {
		if m.GetState() == "unreachable" {
			say("%s", v.down(m, total-dead))
		}
	}
	for _, m := range v.members {
		if m.GetState() != "unreachable" {
			out = append(out, v.ailing(m, newest)...)
		}
	}
	if said := v.versions(); said != "" {
		say("%s", said)
	}
	for _, said := range v.mended() {
		say("%s", said)
	}
	if total == 2 {
		say("The cluster has two nodes, so the loss of either stops it: add a third one ('vedette token create --node').")
	}
	for _, name := range slices.Sorted(maps.Keys(v.roots)) {
		if end := v.roots[name]; end.Sub(v.now) < rootEndsSoon {
			say("The certificate of %s %s, and all that it signed with it: an admin runs '%s' before.", name, v.ends(end), renewal[name])
		}
	}
	return out
}

// renewal is what to type when an authority ends.
var renewal = map[string]string{clusterAuthority: "vedette cluster root rotate", operatorsAuthority: "vedette cluster root renew-operators"}

const clusterAuthority, operatorsAuthority = "the cluster's authority", "the operators' authority"

// down says since when a node does not answer, and what its absence means.
func (v *view) down(m *operatorv1.Member, alive int) string {
	since := fmt.Sprintf("since %s (%s)", clock(m.GetLastContact()), long(v.now.Sub(time.Unix(0, m.GetLastContact()))))
	if m.GetLastContact() == 0 {
		since = fmt.Sprintf("since node %s started at %s or longer", v.self, clock(v.started.UnixNano()))
	}
	text := fmt.Sprintf("Node %s (%s) does not answer %s", m.GetId(), m.GetAddress(), since)
	if v.leader == "" { // without one nothing can be removed
		return text + ": run 'systemctl status vedette-coordinator' there."
	}
	if 2*(alive-1) <= len(voters(v.members)) {
		text += "; the loss of one more stops the cluster"
	}
	return text + fmt.Sprintf(": run 'systemctl status vedette-coordinator' there; if it is gone for good, 'vedette cluster remove %s'.", m.GetId())
}

// ailing is what is wrong with a node that answers.
func (v *view) ailing(m *operatorv1.Member, newest uint64) (out []string) {
	say := func(format string, args ...any) {
		out = append(out, "Node "+m.GetId()+" "+fmt.Sprintf(format, args...))
	}
	full := false
	for _, reason := range m.GetNotReady() {
		if v.leader == "" && strings.Contains(reason, "no leader") {
			continue // so has nobody, and that is said
		}
		if strings.Contains(reason, "disk is full") {
			full = true
			say("is not ready: %s. Run 'df -h' there.", reason)
			continue
		}
		say("is not ready: %s. Run 'journalctl -u vedette-coordinator' there.", reason)
	}
	for _, alarm := range m.GetAlarms() {
		say("%s.", alarm)
	}
	if behind := newest - m.GetAppliedIndex(); behind > consensus.FarBehind {
		say("is %d entries behind: if the number does not shrink, its disk is full or slow; run 'df -h' and 'journalctl -u vedette-coordinator' there.", behind)
	}
	if free, total := m.GetDiskFree(), m.GetDiskTotal(); total > 0 && !full && (free < lowDiskBytes || free*100 < total*lowDiskPercent) {
		say("has %d MiB (%d %%) left on its disk: make room on the file system of its data directory ('df -h' there), or it will stop writing.", free>>20, free*100/total)
	}
	if offset := time.Duration(m.GetClockOffset()); offset.Abs() > clockApart {
		way := "ahead of"
		if offset < 0 {
			way = "behind"
		}
		say("has a clock that is %s %s that of node %s: run 'timedatectl' on both and let them keep time (NTP); silences and leases go by it.", offset.Abs().Round(100*time.Millisecond), way, v.self)
	}
	if end := m.GetCertificateEnds(); end > 0 && time.Unix(0, end).Sub(v.now) < endsSoon {
		say("has a certificate that %s, and has not renewed it: run 'systemctl restart vedette-coordinator' there; its log says what fails.", v.ends(time.Unix(0, end)))
	}
	return out
}

// mended says which nodes held another state lately. They are well again, and what made them wrong
// may not be.
func (v *view) mended() (out []string) {
	times, last := make(map[string]int), make(map[string]int64)
	for _, e := range v.differed {
		times[e.GetSubject()]++
		last[e.GetSubject()] = e.GetTime()
	}
	for _, id := range slices.Sorted(maps.Keys(times)) {
		often := ""
		if times[id] > 1 {
			often = fmt.Sprintf(", the last of %d times in %s", times[id], long(shownDiffered))
		}
		out = append(out, fmt.Sprintf("Node %s held another state than the others and took theirs over at %s%s: look after its disk and memory ('journalctl -k' there), and replace it if that comes again.",
			id, clock(last[id]), often))
	}
	return out
}

// versions says when nodes differ: an upgrade that was left half-way.
func (v *view) versions() string {
	var each []string
	differ, first := false, ""
	for _, m := range v.members {
		if m.GetVersion() == "" {
			continue
		}
		if first == "" {
			first = m.GetVersion()
		}
		differ = differ || m.GetVersion() != first
		each = append(each, m.GetId()+" "+m.GetVersion())
	}
	if !differ {
		return ""
	}
	return fmt.Sprintf("The nodes run different versions (%s): upgrade those that are behind, one after the other.", strings.Join(each, ", "))
}

// ofWork is what waits for a person, and what was switched off.
func (v *view) ofWork() []string {
	var out []string
	named := 0
	for _, o := range v.waiting {
		if o.GetState() == "expired" {
			continue
		}
		if named++; named > namedOrders {
			continue
		}
		what := fmt.Sprintf("Order %s (%s, %s, by %s)", o.GetId(), o.GetAction(), plural(uint64(len(o.GetHosts())), "host"), o.GetRequestedBy())
		if o.GetState() == store.OrderWindow {
			out = append(out, fmt.Sprintf("%s goes out at %s unless somebody objects: 'vedette operation show %s', then 'vedette veto %s --reason …' to stop it.",
				what, clock(o.GetWindowEnds()), o.GetId(), o.GetId()))
			continue
		}
		out = append(out, fmt.Sprintf("%s waits for %s until %s: 'vedette operation show %s', then 'vedette approve %s' or 'vedette veto %s --reason …'.",
			what, plural(uint64(max(1, o.GetApprovalsMissing())), "more operator"), clock(o.GetExpires()), o.GetId(), o.GetId(), o.GetId()))
	}
	if more := named - namedOrders; more > 0 {
		out = append(out, fmt.Sprintf("%s for a person: 'vedette operation list --open'.", verb(uint64(more), "more order waits", "more orders wait")))
	}
	if v.intent.GetAutomationOff() {
		out = append(out, fmt.Sprintf("Automation is off since %s (version %d of the intent): nothing is done without a person. 'vedette intent show' says by whom and why, 'vedette automation on --reason …' ends it.",
			clock(v.intent.GetIssuedAt()), v.intent.GetVersion()))
	}
	return out
}

// ofHosts is who is not heard from, or not wholly.
func (v *view) ofHosts() []string {
	var out []string
	q := v.quiet
	if q.Silent > 0 {
		out = append(out, fmt.Sprintf("%s silent (%s): run 'systemctl status vedette-sensor' there; a sensor that somebody stopped is a reason to look. 'vedette host list' has them all.",
			verb(q.Silent, "host is", "hosts are"), some(q.Names, ", ", q.Silent)))
	}
	if q.Blind > 0 {
		out = append(out, fmt.Sprintf("%s blind (%s): until that is mended nothing is found there. See 'vedette host show' and 'journalctl -u vedette-sensor' there; when nobody there did it, take it for an attack.",
			verb(q.Blind, "host is", "hosts are"), some(q.BlindNames, "; ", q.Blind)))
	}
	if q.Lossy > 0 {
		out = append(out, fmt.Sprintf("%s lost events within the last hour (%s since they enrolled): 'vedette host list -o wide' says which, 'vedette host show' where and why.",
			verb(q.Lossy, "host has", "hosts have"), plural(q.Lost, "event")))
	}
	return out
}

// some joins names, and says when they are not all.
func some(names []string, by string, all uint64) string {
	text := strings.Join(names, by)
	if uint64(len(names)) < all {
		text += by + "…"
	}
	return text
}

func (v *view) ends(end time.Time) string {
	if !end.After(v.now) {
		return "ended at " + clock(end.UnixNano())
	}
	return fmt.Sprintf("ends at %s (in %s)", clock(end.UnixNano()), long(end.Sub(v.now)))
}

// clock is a time as pages show it: UTC, to the second.
func clock(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05Z") }

// long is a duration in its largest unit.
func long(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(max(d, 0).Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func count(members []*operatorv1.Member, state string) (n int) {
	for _, m := range members {
		if m.GetState() == state {
			n++
		}
	}
	return n
}

// voters are the members that make up a majority: one that joins does not yet.
func voters(members []*operatorv1.Member) []*operatorv1.Member {
	return slices.DeleteFunc(slices.Clone(members), func(m *operatorv1.Member) bool { return m.GetRole() == "joining" })
}

func verb(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
