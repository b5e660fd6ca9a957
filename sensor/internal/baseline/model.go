package baseline

import (
	"math"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

type subjectKey struct {
	kind event.BehaviourKind
	name string
}

type objectKey struct {
	kind event.BehaviourKind
	name string
}

// subject is what an image does of one kind.
type subject struct {
	objects int     // distinct
	windows float64 // sum over its behaviours of the windows each was seen in, decayed
	public  int     // distinct inbound peers on the internet
}

// image is an image's presence on the host, whatever it does.
type image struct {
	refs       int     // behaviours that name it
	clean      int     // of these, seen outside of storylines with findings
	windows    float64 // decayed
	lastWindow int64
}

// judge fills what a verdict says about how odd an observation is: by this host, by its
// peers, and by the hour. Peers are asked about what is not known here alone.
func (b *Baseline) judge(v *event.Verdict, e *entry, at time.Time) {
	v.Surprise = v.HostBits
	if b.prior != nil && (e == nil || !e.known) {
		v.Group, v.Fleet = b.prior.Group(v.Behaviour), b.prior.Fleet(v.Behaviour)
		if v.Group.Of+v.Fleet.Of > 0 {
			v.Surprise = -math.Log2(min(max(backOff(math.Exp2(-v.HostBits), v.Group, v.Fleet), 1e-12), 1))
		}
	}
	v.HourBits, v.Hours, v.Timed = e.hourOf(at)
}

const (
	// halfWindow is how much decay may take of the windows that make a behaviour known.
	halfWindow = 0.5
	// fadedWeight is the weight below which what was known is not any more.
	fadedWeight = 0.5
	// fadeEvery is the observed time between two decays of the sums.
	fadeEvery = 24 * time.Hour
)

// weightOf is in how many windows an entry was seen, each halved by HalfLife.
func (b *Baseline) weightOf(e *entry) float64 {
	return float64(e.weight) * math.Exp2(-float64(b.observed-e.seen)/float64(b.cfg.HalfLife))
}

// fade decays the sums once a day, and ends what was known and is not seen any more. What
// the kernel counts stays until it forgets it: it would not tell of its coming back.
func (b *Baseline) fade() {
	since := b.observed - b.faded
	if since < fadeEvery {
		return
	}
	b.faded = b.observed
	for _, s := range b.subjects {
		s.windows = 0
	}
	for _, e := range b.entries {
		w := b.weightOf(e)
		if s := b.subjects[subjectKey{e.kind, e.subject}]; s != nil {
			s.windows += w
		}
		if e.known && w < fadedWeight && e.kept == 0 {
			b.setKnown(e, false)
			b.changed[e] = struct{}{}
			b.dirty[e.key] = struct{}{}
		}
	}
	share := math.Exp2(-float64(since) / float64(b.cfg.HalfLife))
	for _, img := range b.images {
		img.windows *= share
	}
}

// surprise is -log2 of the smoothed probability of object given subject.
//
// Counts are windows, not events, so that a chatty program is not more certain
// than a quiet one. Unseen objects get the share that Witten and Bell (1991)
// give them: the rate at which this subject did new things, over all windows in
// which it was seen to do anything at all. That share is divided by how many
// other subjects have the object (the continuation probability of Kneser and
// Ney, 1995): a shell is a less surprising new child than a program that nobody
// ever started.
func (b *Baseline) surprise(kind event.BehaviourKind, subjectName, objectName string, e *entry) float64 {
	var distinct, windows, own float64
	if s := b.subjects[subjectKey{kind, subjectName}]; s != nil {
		distinct, windows = float64(s.objects), s.windows
	}
	if img := b.images[subjectName]; img != nil {
		windows = max(windows, img.windows)
	}
	if e != nil && e.clean {
		own = max(b.weightOf(e), 0.5)
	}
	spread := float64(b.objects[objectKey{kind, objectName}])
	backoff := (spread + 1) / (float64(b.edges[kind]) + float64(b.things[kind]) + 1)
	fresh := distinct + 0.5
	p := (own + fresh*backoff) / (windows + fresh + 0.5)
	return -math.Log2(min(max(p, 1e-12), 1))
}

// sampled is how many behaviours an eviction looks at: exact order would need a
// list that every event changes.
const sampled = 48

// admit makes an entry, and room for it; nil when there is none.
func (b *Baseline) admit(kind event.BehaviourKind, key event.BehaviourKey, subjectName, objectName string, at time.Time) *entry {
	if len(b.entries) >= b.cfg.MaxBehaviours && !b.evict() {
		return nil
	}
	e := &entry{key: key, kind: kind, subject: subjectName, object: objectName, first: at.UnixNano(), last: at.UnixNano(), lastWindow: -1, seen: b.observed}
	b.link(e)
	return e
}

func (b *Baseline) evict() bool {
	var victim *entry
	looked := 0
	for _, e := range b.entries {
		if looked++; looked > sampled {
			break
		}
		if _, busy := b.changed[e]; busy || e.kept > 0 {
			continue
		}
		if victim == nil || (victim.known && !e.known) || (victim.known == e.known && e.last < victim.last) {
			victim = e
		}
	}
	if victim == nil {
		return false
	}
	b.unlink(victim)
	b.losses["evicted"]++
	return true
}

// link adds an entry to every count.
func (b *Baseline) link(e *entry) {
	b.entries[e.key] = e
	b.edges[e.kind]++
	sk, ok := subjectKey{e.kind, e.subject}, objectKey{e.kind, e.object}
	s := b.subjects[sk]
	if s == nil {
		s = &subject{}
		b.subjects[sk] = s
	}
	s.objects++
	s.windows += b.weightOf(e)
	if isPublicInbound(e.object) && e.kind == event.BehaviourFlow {
		s.public++
	}
	if b.objects[ok]++; b.objects[ok] == 1 {
		b.things[e.kind]++
	}
	for _, name := range e.images() {
		img := b.images[name]
		if img == nil {
			img = &image{lastWindow: -1}
			b.images[name] = img
		}
		img.refs++
		if e.clean {
			img.clean++
		}
		if name == e.subject {
			img.windows = max(img.windows, b.weightOf(e))
		}
	}
	if e.known {
		b.known++
		b.related(e, true)
	}
}

func (b *Baseline) unlink(e *entry) {
	delete(b.entries, e.key)
	delete(b.touched, e)
	delete(b.changed, e)
	b.dirty[e.key] = struct{}{}
	b.edges[e.kind]--
	sk, ok := subjectKey{e.kind, e.subject}, objectKey{e.kind, e.object}
	if s := b.subjects[sk]; s != nil {
		s.windows = max(s.windows-b.weightOf(e), 0)
		if isPublicInbound(e.object) && e.kind == event.BehaviourFlow {
			s.public--
		}
		if s.objects--; s.objects == 0 {
			delete(b.subjects, sk)
		}
	}
	if b.objects[ok]--; b.objects[ok] <= 0 {
		delete(b.objects, ok)
		b.things[e.kind]--
	}
	for _, name := range e.images() {
		if img := b.images[name]; img != nil {
			if e.clean {
				img.clean--
			}
			if img.refs--; img.refs == 0 {
				delete(b.images, name)
			}
		}
	}
	if e.known {
		b.known--
		b.related(e, false)
	}
}

// images are the images that a behaviour shows to be on this host.
func (e *entry) images() []string {
	if e.kind == event.BehaviourExec && e.object != e.subject {
		return []string{e.subject, e.object}
	}
	return []string{e.subject}
}

func (b *Baseline) setClean(e *entry, clean bool) {
	if e.clean == clean {
		return
	}
	e.clean = clean
	for _, name := range e.images() {
		if img := b.images[name]; img != nil {
			if clean {
				img.clean++
			} else {
				img.clean--
			}
		}
	}
}
