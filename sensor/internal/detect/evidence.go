package detect

import (
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// clue is a fact about a new behaviour that intruders' behaviours have more often, or
// less, than what else is new on a host.
type clue uint8

const (
	clueServiceSpawn clue = iota
	clueServiceShell
	clueOtherShell
	clueServing
	clueFreshImage
	clueFirstUse
	clueNewcomer
	clueOddPlace
	clueOwnPlace
	clueSetID
	clueSystemUser
	clueRemoteSession
	clueOffHost
	clueStranger
	clueHop
	clueShellTalks
	clueShellListens
	clueCommandLineProgram
	clueOddPort
	clueNoName
	clueUnattended
	clueOddHour
	clueHasFinding
	clueLoopback
	clueFailed
	clueInstalls
	clueCount
)

// evidence is the one table of what a clue is worth: the binary logarithm of how many
// times more often it is true of an intruder's new behaviour than of an ordinary new one.
// They are judgements by people, made once, of how Linux hosts work; what a host makes of
// them is its own, because a score counts only by how rare such a score is there.
var evidence = [clueCount]float64{
	clueServiceSpawn:       12, // servers start a fixed set of programs, known within the first day; a new child is an upgrade's, or a hole's
	clueServiceShell:       9,  // and a shell or an interpreter is what a hole is used for first
	clueOtherShell:         2,  // programs that call system(3): many, each a few times
	clueServing:            4,  // new while a request is served: the request may be why
	clueFreshImage:         4,  // tools are brought along; but every installation brings images, too
	clueFirstUse:           2,  // first started, but it has lain there for a week and more: people have hundreds of such tools
	clueNewcomer:           8,  // an image of today that calls out: what installs itself must, what is installed seldom does so at once
	clueOddPlace:           8,  // in memory, deleted, hidden or where everybody may write: packages never, builds and installers now and then
	clueOwnPlace:           2,  // /opt, /usr/local and homes: ordinary for people's own programs
	clueSetID:              4,  // new use of a set-id file: privileges are the second thing an intruder needs
	clueSystemUser:         2,  // a service account at a shell; package scripts do it as well
	clueRemoteSession:      2,  // most work comes from a session, most attacks do
	clueOffHost:            4,  // a new peer: intruders need one, and so do upgrades of what is configured
	clueStranger:           8,  // who comes from a new place is a new colleague once, an intruder always
	clueHop:                8,  // onward from inside a session: bastions do it all day, and are known for it
	clueShellTalks:         10, // a shell has no network use of its own (/dev/tcp, an inherited socket)
	clueShellListens:       10,
	clueCommandLineProgram: 4, // one-liners that connect
	clueOddPort:            2, // 1024 and above, telnet and mail
	clueNoName:             2, // a public address that nobody here asked a name for: what is configured has names
	clueUnattended:         3, // nobody is there: services and clocks do the same for ever, people do new things each day
	clueOddHour:            6, // at most; what the hour itself is worth
	clueHasFinding:         8, // a storyline with a finding is an intruder's with far better odds than any other
	// Against.
	clueLoopback: -10, // talks to itself: nothing leaves the host
	clueFailed:   -2,  // nobody answered
	clueInstalls: -5,  // a package manager's doing: new things are what it is for. What it leaves is judged when it runs
}

const (
	// noveltyShare is what a bit of surprise is worth: what is a bit less likely of a
	// host's ordinary work is a third of a bit less likely of an intruder's, who chooses
	// among all programs and peers as well.
	noveltyShare = 2.0 / 3
	// maxNovelty bounds it: a new thing is a new thing, however long the host was watched.
	maxNovelty = 12.0
	// earlier is the share that counts of what the storyline showed before: it may be the
	// same hand's doing, or the same service's.
	earlier = 0.5
	// sameSubject is what further new behaviours of one subject count as: forty new
	// children of one build are one new build.
	sameSubject = 1.0 / 8
	// storyHalfLife is how long what a storyline showed keeps half its worth: services
	// are one storyline for years.
	storyHalfLife = time.Hour
	// subjectsKept is how many subjects of a storyline are told apart.
	subjectsKept = 16
	// repeatFor is how long a clue that a storyline's finding had brings no other one of it,
	// and newClue what a clue must be worth to bring one.
	repeatFor = 24 * time.Hour
	newClue   = 4.0
	// least is how many bits an observation must bring itself to be told, however odd
	// its storyline is: else all that follows one odd thing would be findings.
	least = 12.0
)

// showing is what a storyline has shown lately.
type showing struct {
	at       time.Time
	clues    [clueCount]float32
	texts    [clueCount]string
	novelty  float64 // the largest
	novel    float64 // how many new behaviours, corrected for bursts
	subjects [subjectsKept]uint64
	next     int
	// told are the clues that findings of this storyline had, one bit each, and toldAt when
	// the last was.
	told   uint32
	toldAt time.Time
}

var subjectSeed = maphash.MakeSeed()

// fade takes from everything what the time since the last observation costs.
func (s *showing) fade(now time.Time) {
	since := now.Sub(s.at)
	if s.at.IsZero() || since <= 0 {
		s.at = now
		return
	}
	if since < time.Second {
		return
	}
	s.at = now
	share := math.Exp2(-float64(since) / float64(storyHalfLife))
	for i := range s.clues {
		s.clues[i] *= float32(share)
	}
	s.novelty *= share
	s.novel *= share
	if s.novel < 0.1 {
		clear(s.subjects[:])
	}
}

// burst counts one more new behaviour and says how many it makes.
func (s *showing) burst(subject string) float64 {
	name := maphash.String(subjectSeed, subject)
	for _, seen := range s.subjects {
		if seen == name {
			s.novel += sameSubject
			return s.novel
		}
	}
	s.subjects[s.next] = name
	s.next = (s.next + 1) % subjectsKept
	s.novel++
	return s.novel
}

// sum is what a score is made of.
type sum struct {
	own     float64 // what the observation brings by itself
	whole   float64 // what the storyline shows with it
	novelty float64 // of whole: what was new before, by half
	burst   float64 // of whole: for how much is new
}

// score adds an observation to what its storyline shows.
func (s *showing) score(novelty float64, subject string, own terms, now time.Time) (out sum) {
	s.fade(now)
	out.own = novelty
	for _, t := range own {
		out.own += t.bits
	}
	out.whole = out.own
	for c, bits := range s.clues {
		if bits > 0 && !own.have(clue(c)) {
			out.whole += earlier * float64(bits)
		}
	}
	out.novelty = earlier * max(s.novelty-novelty, 0)
	if novelty > 0 {
		out.burst = math.Log2(max(s.burst(subject), 1))
	}
	out.whole += out.novelty + out.burst
	s.novelty = max(s.novelty, novelty)
	for _, t := range own {
		if t.bits > 0 && t.clue != clueHasFinding && float32(t.bits) > s.clues[t.clue] {
			s.clues[t.clue], s.texts[t.clue] = float32(t.bits), t.text
		}
	}
	out.own, out.whole = max(out.own, 0), max(out.whole, 0)
	return out
}

// before is what the storyline showed earlier that counts beside an observation's own clues.
func (s *showing) before(own terms) (all []event.Term) {
	for c, bits := range s.clues {
		if worth := earlier * float64(bits); worth >= 0.5 && !own.have(clue(c)) {
			all = append(all, event.Term{Bits: worth, Text: "earlier in its storyline: " + s.texts[c]})
		}
	}
	return all
}

// adds tells whether an observation has something to say that no finding of its storyline
// said before: else an hour of one person's work would be ten findings.
func (s *showing) adds(own terms, now time.Time) bool {
	if s.told == 0 || now.Sub(s.toldAt) >= repeatFor {
		return true
	}
	return slices.ContainsFunc(own, func(t term) bool {
		return t.bits >= newClue && t.clue != clueHasFinding && s.told&(1<<t.clue) == 0
	})
}

// tell notes what a finding said.
func (s *showing) tell(own terms, now time.Time) {
	if now.Sub(s.toldAt) >= repeatFor {
		s.told = 0
	}
	s.toldAt = now
	s.told |= 1 << clueHasFinding // never none
	for _, t := range own {
		if t.bits >= newClue {
			s.told |= 1 << t.clue
		}
	}
}

func (t terms) have(c clue) bool {
	return slices.ContainsFunc(t, func(one term) bool { return one.clue == c })
}
