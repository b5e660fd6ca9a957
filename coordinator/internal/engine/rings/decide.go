package rings

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// view is all that a decision is made from.
type view struct {
	set   *store.RuleSet
	rules *sensorv1.RuleSet // decoded of it
	hosts []store.RuleHost
	now   time.Time
	// since is when the set, and the ring, began for this leader: a new one gives hosts the time
	// to come back that its election took from them.
	led time.Time
	// findings by the set's rules since it was pushed, by host; and by those of its base on the
	// same hosts in the day before, for each host and day.
	findings map[string]int
	before   float64
}

// decision is what to do now; nothing when why is empty and next is false.
type decision struct {
	halt bool
	next bool
	why  string
	host string
	// waits says what is waited for.
	waits string
}

const (
	// comesBack is how long a host may be away, or have an order unanswered, before it counts.
	comesBack = 90 * time.Second
	// leastFindings of one host are no flood, however short the time.
	leastFindings = 3
)

// decide judges a set that is on its way, or that all have.
func decide(v view) decision {
	ring := members(v)
	if d := v.faults(ring); d.halt {
		return d
	}
	if d := v.floods(ring); d.halt {
		return d
	}
	if v.set.State != store.RulesRolling {
		return decision{}
	}
	using, able, late := 0, 0, ""
	for _, h := range ring {
		if !h.Connected || !h.Told {
			continue
		}
		able++
		if h.Held.GetVersion() == v.set.Version {
			using++
			continue
		}
		late = cmp.Or(late, first(h.Name, h.ID))
	}
	soak := ruleset.Soak(v.rules)
	left := soak - v.now.Sub(time.Unix(0, v.set.RingSince))
	switch {
	case able == 0 && !v.others(ring):
		return decision{waits: "no host is connected and takes rules"}
	case able == 0 && left <= 0 && v.now.Sub(v.led) > comesBack:
		return decision{next: true} // it can show nothing, however long it is waited for
	case able == 0:
		return decision{waits: "no host of the ring is connected and takes rules; it is passed when its time is over"}
	case using < able:
		if v.now.Sub(time.Unix(0, v.set.RingSince)) > soak+comesBack {
			return decision{halt: true, why: fmt.Sprintf("%d of %d hosts of the ring never said that they use it", able-using, able), host: late}
		}
		return decision{waits: fmt.Sprintf("%d of %d hosts of the ring use it", using, able)}
	case left > 0:
		return decision{waits: fmt.Sprintf("%s more of watching", left.Round(time.Second))}
	}
	return decision{next: true}
}

// others says whether a host beyond the ring is connected and takes rules.
func (v view) others(ring []store.RuleHost) bool {
	able := func(hosts []store.RuleHost) (n int) {
		for _, h := range hosts {
			if h.Connected && h.Told {
				n++
			}
		}
		return n
	}
	return able(v.hosts) > able(ring)
}

// members are the hosts that were given the set.
func members(v view) (ring []store.RuleHost) {
	for _, h := range v.hosts {
		if ruleset.Covers(v.set.State, v.set.Ring, v.set.FirstHost, h.ID) {
			ring = append(ring, h)
		}
	}
	return ring
}

// faults halts at a sensor that refuses the set, loses findings by it, or falls silent or
// starts again more often than those that do not have it.
func (v view) faults(ring []store.RuleHost) decision {
	in := map[string]bool{}
	var silent, restarted, uses int
	var one string
	for _, h := range ring {
		in[h.ID] = true
		if h.Held.GetFailedVersion() == v.set.Version && h.Held.GetFailure() != "" {
			return decision{halt: true, host: h.ID, why: fmt.Sprintf("%s does not use it: %s", quoted(first(h.Name, h.ID)), quoted(h.Held.GetFailure()))}
		}
		if h.Held.GetVersion() != v.set.Version {
			continue
		}
		uses++
		for _, r := range h.Held.GetRefused() {
			if !r.GetUnsupported() {
				return decision{halt: true, host: h.ID, why: fmt.Sprintf("%s refused a rule of it: %s:%d: %s", quoted(first(h.Name, h.ID)), quoted(r.GetPath()), r.GetLine(), quoted(r.GetReason()))}
			}
		}
		if h.Over > 0 && h.Since >= v.set.PutAt {
			return decision{halt: true, host: h.ID, why: fmt.Sprintf("%s had %d findings beyond its limits since it uses it", first(h.Name, h.ID), h.Over)}
		}
		if v.silent(h) {
			silent++
			one = cmp.Or(one, h.ID)
		}
		if h.Restarted > h.Since && h.Restarted >= v.set.PutAt {
			restarted++
			one = cmp.Or(one, h.ID)
		}
	}
	var peers, peersSilent, peersRestarted int
	for _, h := range v.hosts {
		if in[h.ID] || !h.Told {
			continue
		}
		peers++
		if v.silent(h) {
			peersSilent++
		}
		if h.Restarted >= v.set.PutAt {
			peersRestarted++
		}
	}
	switch {
	case more(silent, uses, peersSilent, peers):
		return decision{halt: true, host: one, why: fmt.Sprintf("of the %d hosts that use it %d fell silent, of the %d others %d", uses, silent, peers, peersSilent)}
	case more(restarted, uses, peersRestarted, peers):
		return decision{halt: true, host: one, why: fmt.Sprintf("of the %d hosts that use it %d had their sensor start again, of the %d others %d", uses, restarted, peers, peersRestarted)}
	}
	return decision{}
}

// silent: its session ended while it used the set, without a goodbye, and no other began.
func (v view) silent(h store.RuleHost) bool {
	return !h.Connected && h.Ended != "stopped" && h.Heard >= v.set.PutAt && v.now.Sub(time.Unix(0, h.Heard)) > comesBack && v.now.Sub(v.led) > comesBack
}

// more says whether something is as often again, and by one host at least, among those that
// use a set as among the others.
func more(these, of, those, others int) bool {
	if these == 0 {
		return false
	}
	if others == 0 {
		return float64(these) > 0.1*float64(of)
	}
	return float64(these)*float64(others) > 2*float64(those)*float64(of)
}

// floods halts at more findings for each host and day than the set allows itself.
func (v view) floods(ring []store.RuleHost) decision {
	limit := float64(ruleset.MaxFindings(v.rules)) + v.before
	total, uses := 0, 0
	var days float64
	for _, h := range ring {
		if h.Held.GetVersion() != v.set.Version {
			continue
		}
		uses++
		total += v.findings[h.ID]
		days += v.now.Sub(time.Unix(0, max(h.Since, v.set.PutAt))).Hours() / 24
	}
	if uses == 0 {
		return decision{}
	}
	// What is allowed in the time so far, and not less than a few: they may come one after another.
	allowed := math.Max(limit*days, math.Max(leastFindings, limit))
	if uses > 1 {
		allowed = math.Max(limit*days, math.Max(leastFindings, limit)*math.Sqrt(float64(uses)))
	}
	if float64(total) <= allowed {
		return decision{}
	}
	worst := ""
	for _, h := range ring {
		if worst == "" || v.findings[h.ID] > v.findings[worst] {
			worst = h.ID
		}
	}
	return decision{halt: true, host: worst, why: fmt.Sprintf("its rules made %d findings on %d hosts in %s of their time together; %.1f for each host and day are allowed (%.1f before)",
		total, uses, time.Duration(days*24*float64(time.Hour)).Round(time.Minute), limit, v.before)}
}

// maxSaid bounds what is quoted of a host: a reason that is too long for the log would halt nothing.
const maxSaid = 400

func quoted(s string) string {
	if len(s) > maxSaid {
		s = s[:maxSaid] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func first(values ...string) string { return cmp.Or(values...) }
