package baseline

import "github.com/vedette-edr/vedette/sensor/internal/event"

// Prior says what other hosts do. It is asked with the baseline's lock held, at most once
// for each behaviour that is not known here: it answers from memory and never calls back.
// Who has it counts distinct hosts, without this one. The zero Share: nobody can say.
type Prior interface {
	// Group is of the hosts of this host's role group.
	Group(event.Behaviour) event.Share
	// Fleet is of all hosts.
	Fleet(event.Behaviour) event.Share
}

// SetPrior replaces what is known of other hosts; nil: nothing is.
func (b *Baseline) SetPrior(p Prior) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prior = p
}

// The weights of the back-off. A group or fleet of n hosts speaks with the weight
// n/(n+manyHosts) of its most, and the group before the fleet, because what a role does
// says more of its next member than what everybody does. The host's own share never
// falls below 1 - groupWeight - fleetWeight: whoever owns the whole fleet's word takes
// two bits of surprise from a behaviour that he has spread, and no more than that from
// one that nobody has.
const (
	groupWeight = 0.5
	fleetWeight = 0.25
	manyHosts   = 4.0
	// oneHost is taken from the hosts that have it: what one other host does may be the
	// same intruder there.
	oneHost = 1.0
)

// backOff mixes this host's probability of a behaviour with its peers'.
func backOff(host float64, group, fleet event.Share) float64 {
	g, f := groupWeight*weightOf(group), fleetWeight*weightOf(fleet)
	return (1-g-f)*host + g*shareOf(group) + f*shareOf(fleet)
}

func weightOf(s event.Share) float64 { return float64(s.Of) / (float64(s.Of) + manyHosts) }

func shareOf(s event.Share) float64 {
	return max(float64(min(s.Have, s.Of))-oneHost, 0) / (float64(s.Of) + 1)
}
