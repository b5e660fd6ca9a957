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

// UsePack replaces the pack; nil is none.
func (b *Baseline) UsePack(p *Pack) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pack, b.prior = nil, nil
	if p == nil || len(p.Behaviours) == 0 || !p.Trusted && !b.learning() {
		return
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
	for key := range b.entries {
		n.meet(key)
	}
	b.pack, b.prior = n, n
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
	if p := b.pack; p != nil && (!p.until.IsZero() && !now.Before(p.until) || !p.trusted && !b.learning()) {
		b.pack, b.prior = nil, nil
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

// Group implements Prior. Of what the pack does not have nobody can say how many have it: they are
// fewer than its share.
func (p *packed) Group(one event.Behaviour) event.Share {
	if hosts := p.hosts[one.Key]; hosts > 0 {
		return event.Share{Have: hosts, Of: p.of}
	}
	return event.Share{}
}

// Fleet implements Prior: a pack says nothing of other roles.
func (p *packed) Fleet(event.Behaviour) event.Share { return event.Share{} }

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
	if b.pack != nil {
		delete(b.pack.hosts, key)
	}
}
