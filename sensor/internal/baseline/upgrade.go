package baseline

import (
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// A package's upgrade gives its files other paths where those have the version in them:
// /usr/lib/postgresql/15/bin/postgres becomes …/16/…. What was known of the old image is
// carried over to the new one, behaviour by behaviour: the same who, what and to what but for
// versions. It is then not new, and becomes known in one window of its own. Names stay as they
// are, so that what is told of both is told apart.

// installed are the directories whose files come from packages, and in which only root writes.
var installed = []string{"/usr/", "/opt/", "/lib", "/bin/", "/sbin/", "/snap/", "/nix/store/"}

// family is an image's name without versions; the name itself where it lies elsewhere or has none.
func family(name string) string {
	if !strings.ContainsAny(name, "0123456789") {
		return name
	}
	for _, dir := range installed {
		if strings.HasPrefix(name, dir) && !strings.HasPrefix(name, "/usr/local/") {
			return unversioned(name)
		}
	}
	return name
}

// unversioned puts one # for each run of digits, dots between digits with them.
func unversioned(name string) string {
	var out strings.Builder
	for i := 0; i < len(name); {
		j := i
		for j < len(name) && (isDigit(name[j]) || name[j] == '.' && j > i && j+1 < len(name) && isDigit(name[j+1])) {
			j++
		}
		if j > i {
			out.WriteByte('#')
			i = j
			continue
		}
		out.WriteByte(name[i])
		i++
	}
	return out.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// familyOf is a behaviour without its images' versions; false when it has none. Peers, ports and
// files are no images: their digits are no versions.
func familyOf(kind event.BehaviourKind, subject, object string) (event.BehaviourKey, bool) {
	s, o := family(subject), object
	if kind == event.BehaviourExec {
		o = family(object)
	}
	if s == subject && o == object {
		return event.BehaviourKey{}, false
	}
	return KeyOf(kind, s, o), true
}

// setKnown keeps the counts that say what is known.
func (b *Baseline) setKnown(e *entry, known bool) {
	if e.known == known {
		return
	}
	e.known = known
	if known {
		b.known++
	} else {
		b.known--
	}
	b.related(e, known)
}

// related counts an entry among the known ones of its family, or no more.
func (b *Baseline) related(e *entry, in bool) {
	key, versioned := familyOf(e.kind, e.subject, e.object)
	if !versioned {
		return
	}
	if in {
		b.families[key]++
	} else if b.families[key]--; b.families[key] <= 0 {
		delete(b.families, key)
	}
}

// carry gives a new entry what its relatives of another version have taught, unless it came in
// a storyline or at a time that teaches nothing.
func (b *Baseline) carry(e *entry, v *event.Verdict, anchor event.ProcessKey) {
	key, versioned := familyOf(e.kind, e.subject, e.object)
	if !versioned || b.families[key] == 0 || b.pausedAt(b.lastTick) {
		return
	}
	if _, bad := b.tainted[anchor]; bad {
		return
	}
	if _, forgotten := b.excepted[e.key]; forgotten {
		return
	}
	v.New, v.ImageNew = false, false
	b.setClean(e, true)
	e.windows = uint32(max(b.cfg.KnownWindows-1, 0)) //nolint:gosec // positive by withDefaults
	e.weight, e.seen = float32(e.windows), b.observed
	if s := b.subjects[subjectKey{e.kind, e.subject}]; s != nil {
		s.windows += float64(e.weight)
	}
}
