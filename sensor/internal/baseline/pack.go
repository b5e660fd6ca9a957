package baseline

import (
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Pack is what most hosts of this host's role do. What it may bring about depends on whose
// word it is:
//
//   - An operator's (Trusted) makes its behaviours not new here, until it ends: alone they are
//     no finding any more. Rules, taint and tampering are judged as ever, and the kernel keeps
//     nothing back for it: known is only what this host itself did in enough windows.
//   - A node's makes nothing unjudged that was judged without it. It counts only while the
//     host learns, when novelty is no finding anyway: what is in it stays that, and what is
//     not in it is judged from then on, a day early. When the host has learnt, it is dropped.
//     So the most that a stolen node does with one is what a host's first day does without.
type Pack struct {
	Trusted    bool
	Of         uint32    // hosts that it was made of
	Until      time.Time // zero: without end
	Behaviours []Packed
}

// The pack of the whole fleet (UseFleet) only says how many hosts do a thing: it makes nothing new or
// not, and nothing judged or not. It is an operator's, or none.

// Packed is one behaviour of a pack.
type Packed struct {
	Kind            event.BehaviourKind
	Subject, Object string
	Hosts           uint32 // that have it, of Pack.Of
}

const (
	// fitSeen distinct behaviours of this host are looked at, and so many in a hundred must be
	// the pack's, before what is not in it is judged: a host that is no such one learns as if
	// it had no pack.
	fitSeen, fitShare = 20, 60
	// maxExcepted bounds the behaviours that an order to forget took out of every pack.
	maxExcepted = 4096
)

// packed is the pack in use.
type packed struct {
	trusted bool
	of      uint32
	until   time.Time
	hosts   map[event.BehaviourKey]uint32
	images  map[string]struct{}

	seen, fits int  // distinct behaviours of this host, and those of them that are the pack's
	warm       bool // it fits; stays so
}

// UsePack replaces the role's pack; nil is none.
func (b *Baseline) UsePack(p *Pack) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pack = nil
	if p != nil && (p.Trusted || b.learning()) {
		b.pack = b.packed(p)
	}
	if b.pack != nil {
		for key := range b.entries {
			b.pack.meet(key)
		}
	}
	b.askPeers()
}

// UseFleet replaces the fleet's pack; nil is none, and one that is nobody's word as well.
func (b *Baseline) UseFleet(p *Pack) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fleet = nil
	if p != nil && p.Trusted {
		b.fleet = b.packed(p)
	}
	b.askPeers()
}

// packed is a pack as it is asked, without what this host was told to forget; nil: it is empty.
func (b *Baseline) packed(p *Pack) *packed {
	if len(p.Behaviours) == 0 {
		return nil
	}
	n := &packed{trusted: p.Trusted, of: p.Of, until: p.Until, hosts: make(map[event.BehaviourKey]uint32, len(p.Behaviours)), images: map[string]struct{}{}}
	for _, one := range p.Behaviours {
		e := &entry{kind: one.Kind, subject: one.Subject, object: one.Object}
		key := KeyOf(e.kind, e.subject, e.object)
		if _, forgotten := b.excepted[key]; forgotten || one.Kind < event.BehaviourExec || one.Kind >= kinds {
			continue
		}
		n.hosts[key] = min(one.Hosts, p.Of)
		for _, image := range e.images() {
			n.images[image] = struct{}{}
		}
	}
	return n
}

// peers are the two packs as a Prior.
type peers struct{ group, fleet *packed }

// Group implements Prior.
func (p peers) Group(one event.Behaviour) event.Share { return p.group.share(one) }

// Fleet implements Prior.
func (p peers) Fleet(one event.Behaviour) event.Share { return p.fleet.share(one) }

// askPeers makes the packs in use the prior, after one of them has changed.
func (b *Baseline) askPeers() {
	if b.prior = nil; b.pack != nil || b.fleet != nil {
		b.prior = peers{b.pack, b.fleet}
	}
}

// meet counts a behaviour that is new on this host.
func (p *packed) meet(key event.BehaviourKey) {
	p.seen++
	if _, has := p.hosts[key]; has {
		p.fits++
	}
	p.warm = p.warm || p.seen >= fitSeen && p.fits*100 >= p.seen*fitShare
}

// endPack drops a pack that counts no more. It is asked before anything is judged.
func (b *Baseline) endPack(now time.Time) {
	ended := func(p *packed) bool { return p != nil && !p.until.IsZero() && !now.Before(p.until) }
	if ended(b.pack) || b.pack != nil && !b.pack.trusted && !b.learning() {
		b.pack = nil
		b.askPeers()
	}
	if ended(b.fleet) {
		b.fleet = nil
		b.askPeers()
	}
}

// byPack changes what a verdict says by what the host's peers do. It is asked before the entry is
// admitted, when there is none.
func (b *Baseline) byPack(v *event.Verdict, e *entry, image string) {
	p := b.pack
	if p == nil {
		return
	}
	if e == nil {
		p.meet(v.Behaviour.Key)
	}
	_, usual := p.hosts[v.Behaviour.Key]
	switch {
	case usual && p.trusted:
		v.New = false
	case !usual && p.warm:
		v.Early, v.Learning = v.Learning, false
	}
	if _, has := p.images[image]; has && p.trusted {
		v.ImageNew = false
	}
}

// share is how many have a behaviour. Of what the pack does not have nobody can say how many: they are
// fewer than its least share.
func (p *packed) share(one event.Behaviour) event.Share {
	if p == nil || p.hosts[one.Key] == 0 {
		return event.Share{}
	}
	return event.Share{Have: p.hosts[one.Key], Of: p.of}
}

// except takes behaviours out of every pack, this one and those to come: somebody said that they
// were not normal. Beyond maxExcepted an arbitrary one is forgotten to be forgotten.
func (b *Baseline) except(key event.BehaviourKey) {
	if len(b.excepted) >= maxExcepted {
		for some := range b.excepted {
			delete(b.excepted, some)
			break
		}
	}
	b.excepted[key] = struct{}{}
	for _, p := range []*packed{b.pack, b.fleet} {
		if p != nil {
			delete(p.hosts, key)
		}
	}
}
