package detect

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// shells start whatever they are told to; interpreters run programs that are text.
var (
	shells       = []string{"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "csh", "tcsh", "fish", "busybox"}
	interpreters = []string{"python", "perl", "ruby", "php", "lua", "node", "nodejs", "tclsh", "awk", "gawk", "mawk"}
	// sessions start shells because that is what they are for.
	sessions = []string{"sshd", "sshd-session", "sshd-auth", "login", "su", "sudo", "doas", "runuser", "getty", "agetty",
		"tmux", "tmux: server", "screen", "script", "cron", "crond", "atd", "systemd", "init", "runc", "crun", "containerd-shim-runc-v2", "docker-init", "tini", "dropbear", "mosh-server", "telnetd", "in.telnetd"}
	// services face the network whether or not a connection was seen yet.
	services = []string{"nginx", "apache2", "httpd", "lighttpd", "caddy", "haproxy", "php-fpm", "php-cgi", "postgres", "mysqld", "mariadbd",
		"redis-server", "valkey-server", "memcached", "mongod", "named", "unbound", "vsftpd", "proftpd", "smbd", "exim4",
		"gunicorn", "uwsgi", "slapd", "squid", "rsyncd", "etcd", "influxd", "clickhouse-server"}
)

func base(image string) string { return path.Base(image) }

// isNamed compares an image's name, with and without a version at its end.
func isNamed(image string, names []string) bool {
	name := base(image)
	if slices.Contains(names, name) {
		return true
	}
	return slices.Contains(names, strings.TrimRight(name, "0123456789.-"))
}

// term is a clue that an observation shows, with what it is worth here.
type term struct {
	clue clue
	bits float64
	text string
}

// terms gathers the clues of one observation.
type terms []term

func (t *terms) add(c clue, format string, args ...any) {
	*t = append(*t, term{c, evidence[c], fmt.Sprintf(format, args...)})
}

// youngFor is how long after its first execution an image counts as a newcomer.
const youngFor = 24 * time.Hour

const (
	// rareBits is the surprise from which what was seen here, but is not known, counts;
	// its clues count half, because it was ordinary once.
	rareBits = 4.0
	// hourBits is the same for what is known, at an odd hour.
	hourBits = 2.0
)

// anomaly judges behaviour that is new on this host, rare, or at an odd hour.
func (e *Engine) anomaly(o *event.Observation, v event.Verdict, s *story) *event.Finding {
	if !v.Tracked || v.Learning || !v.New && v.HourBits < hourBits && (v.Known || v.Surprise < rareBits) {
		return nil
	}
	var all terms
	var kind, title, did string
	switch ev := o.Event.(type) {
	case *event.Exec:
		kind, title = "new-exec", "Unusual program start: "+plain(base(o.Process.Image), 60)
		all, did = e.execTerms(o, v)
	case *event.FlowOpen:
		if _, _, marked := e.markOf(o.Process); marked {
			return nil // told as a follow-up, in learning as well
		}
		kind, title = "new-flow", "Unusual connection of "+plain(base(o.Process.Image), 60)
		all, did = e.flowTerms(o, ev, v)
	default:
		return nil
	}
	a := e.weigh(o, v, s, all)
	if a.whole < e.odds.need || a.own < least {
		if a.whole >= e.odds.plain && a.own >= least {
			e.stats.OverBudget++ // the correction alone withholds it
		}
		return nil
	}
	if !v.New && v.HourBits < hourBits || !s.shown.adds(a.terms, o.Time) {
		return nil // it is part of a storyline that was told; its like alone is no news
	}
	what := string(v.Behaviour.Key[:])
	key := tellKey{what: what, who: o.Process.Key}
	if !e.told.first(key) {
		return nil
	}
	s.shown.tell(a.terms, o.Time)

	f := e.draft(o, v, s)
	f.Kind, f.Title = kind, title
	f.Techniques = techniquesOf(o, kind)
	e.explain(f, v, a, did)
	if f = e.tell(f, what, s); f != nil {
		e.odds.spend(f.ID, v.Behaviour.Key, a.whole)
	}
	return f
}

// weighed is an observation's score.
type weighed struct {
	sum
	terms terms
	fresh float64 // what its own novelty brings
	shown *showing
}

// weigh scores an observation and lets the calibration know.
func (e *Engine) weigh(o *event.Observation, v event.Verdict, s *story, all terms) weighed {
	a := weighed{terms: all}
	switch {
	case v.New:
	case v.Known:
		// What it is was judged when it was learnt; when it comes, and from where, was not.
		a.terms = slices.DeleteFunc(a.terms, func(t term) bool { return t.clue != clueStranger })
	default:
		for i := range a.terms {
			if a.terms[i].bits > 0 {
				a.terms[i].bits /= 2
			}
		}
	}
	if v.HourBits >= hourBits {
		a.terms.add(clueOddHour, "it is done here at %s, and not at %s", v.Hours, o.Time.UTC().Format("15:04 UTC"))
		a.terms[len(a.terms)-1].bits = v.HourBits
	}
	if s.within(alertFor, o.Time) {
		a.terms.add(clueHasFinding, "its storyline already has a finding")
	}
	if !v.Known {
		a.fresh = noveltyOf(v.Surprise)
	}
	if s.shown == nil {
		s.shown = &showing{}
	}
	a.shown = s.shown
	a.sum = s.shown.score(a.fresh, v.Behaviour.Subject, a.terms, o.Time)
	e.last = Oddness{a.own, a.whole, a.whole >= e.odds.need-suspectBits}
	e.odds.note(a.whole, o.Process.Anchor, s.within(storyFor, o.Time) || s.carriedAt(o.Time))
	return a
}

// Oddness is how odd the observation evaluated last was, in bits: by itself, and what its
// storyline shows with it. Suspect: enough to teach nothing, whether or not it was told.
type Oddness struct {
	Own, Whole float64
	Suspect    bool
}

// PValue is how likely an ordinary window of this host has a storyline of so many bits.
func (e *Engine) PValue(bits float64) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.odds.pValue(bits)
}

// Oddness of the observation evaluated last; zero when nothing was odd about it.
func (e *Engine) Oddness() Oddness {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

func (e *Engine) execTerms(o *event.Observation, v event.Verdict) (terms, string) {
	p := o.Process
	parent := p.Parent
	if parent == nil {
		parent = o.Before
	}
	actor := "an unknown process"
	var t terms
	isShell := isNamed(p.Image, shells) || isNamed(p.Image, interpreters)
	if parent != nil {
		actor = who(parent)
		spawner := orderer(parent)
		if o.Before != nil && e.faces(o.Before) {
			spawner = o.Before
		}
		switch {
		case e.faces(spawner):
			t.add(clueServiceSpawn, "%s serves the network", plain(base(spawner.Image), 60))
			if isShell {
				t.add(clueServiceShell, "%s runs commands for whoever controls it", plain(base(p.Image), 60))
			}
		case isShell && !isNamed(spawner.Image, sessions) && !isNamed(spawner.Image, shells):
			t.add(clueOtherShell, "%s is no program that starts shells for people", plain(base(spawner.Image), 60))
		}
	}
	if p.Origin != nil && !p.Origin.Remote.Addr().IsLoopback() {
		c := clueRemoteSession
		if p.Anchor == p.Key && !isNamed(p.Image, sessions) {
			c = clueServing
		}
		t.add(c, "the image runs with an inbound session from %s", p.Origin.Remote.Addr().Unmap())
	} else if p.Origin != nil && p.Anchor == p.Key && !isNamed(p.Image, sessions) {
		t.add(clueServing, "it was started while a connection from %s was served", endpoint(p.Origin.Remote))
	}
	if v.ImageNew {
		if age := ageOf(o); age >= oldFile {
			t.add(clueFirstUse, "this image was never started on this host, though it has been there for %s", duration(age))
		} else {
			t.add(clueFreshImage, "this image was never seen on this host")
		}
	}
	if unattended(p) {
		t.add(clueUnattended, "no person's session is at work")
	}
	t = append(t, e.strangerTerms(p)...)
	t = append(t, placeTerms(p)...)
	if slices.Contains(p.Traits, event.TraitSetID) {
		t.add(clueSetID, "it gained privileges by its file")
	}
	if isShell && p.UID > 0 && p.UID < 1000 {
		t.add(clueSystemUser, "it runs as the service account %s", plain(p.User, 40))
	}
	if installs(p) {
		t.add(clueInstalls, "a package manager is at work")
	}
	return t, fmt.Sprintf("%s started %s", actor, plain(p.Image, 160))
}

func (e *Engine) flowTerms(o *event.Observation, ev *event.FlowOpen, v event.Verdict) (terms, string) {
	p := o.Process
	var t terms
	remote := ev.Remote.Addr().Unmap()
	if remote.IsLoopback() {
		t.add(clueLoopback, "nothing of it leaves the host")
	}
	if ev.Dir == event.Inbound {
		t = append(t, placeTerms(p)...)
		if v.ImageNew {
			t.add(clueFreshImage, "this image was never seen on this host")
		}
		if isNamed(p.Image, shells) {
			t.add(clueShellListens, "a shell accepts connections")
		}
		return t, who(p) + " " + connection(o.Flow)
	}
	if !remote.IsLoopback() {
		t.add(clueOffHost, "it leaves the host")
		if unattended(p) {
			t.add(clueUnattended, "no person's session is at work")
		}
		if o.Flow.Name == "" && !remote.IsPrivate() && !remote.IsLinkLocalUnicast() && !remote.IsMulticast() {
			t.add(clueNoName, "no name was looked up for the address")
		}
	}
	if ev.Failed {
		t.add(clueFailed, "nobody answered")
	}
	if since, ok := e.young.get(p.Image); ok && o.Time.Sub(since) < youngFor {
		t.add(clueNewcomer, "this image first ran here %s ago", duration(o.Time.Sub(since)))
	} else if v.ImageNew {
		t.add(clueFreshImage, "this image was never seen on this host")
	}
	t = append(t, placeTerms(p)...)
	t = append(t, e.strangerTerms(p)...)
	if remoteAccess(p, ev) && p.Origin != nil && !p.Origin.Remote.Addr().IsLoopback() && !remote.IsLoopback() {
		t.add(clueHop, "it goes on to another host from inside a session")
	}
	if installs(p) {
		t.add(clueInstalls, "a package manager is at work")
	}
	switch {
	case isNamed(p.Image, shells):
		t.add(clueShellTalks, "a shell has no network use of its own")
	case isNamed(p.Image, interpreters) && p.Script == "":
		t.add(clueCommandLineProgram, "it runs a program given on its command line")
	}
	if p.Origin != nil && p.Parent != nil && e.faces(p.Parent) {
		t.add(clueServing, "it serves a session from %s", endpoint(p.Origin.Remote))
	}
	if port := ev.Remote.Port(); port >= 1024 || port == 23 || port == 25 {
		t.add(clueOddPort, "port %d is no usual service's", port)
	}
	return t, who(p) + " " + connection(o.Flow)
}

// orderer is who had a command run: a shell runs it for whoever started the shell.
func orderer(p *event.Process) *event.Process {
	for depth := 0; depth < 4 && p.Parent != nil && isNamed(p.Image, shells) && p.Parent.Anchor == p.Anchor; depth++ {
		p = p.Parent
	}
	return p
}

// oldFile is how long a file must have been there to be no newcomer. The time is the
// inode's change time, which a program cannot set.
const oldFile = 7 * 24 * time.Hour

// ageOf is how long an executed image has been on the host as it is; 0: unknown.
func ageOf(o *event.Observation) time.Duration {
	ev, ok := o.Event.(*event.Exec)
	if !ok || ev.Image.Change == 0 || ev.Image.Change > math.MaxInt64 {
		return 0
	}
	return o.Time.Sub(time.Unix(0, int64(ev.Image.Change)))
}

// clocks start jobs in sessions that no person opened.
var clocks = []string{"cron", "crond", "atd", "anacron", "fcron"}

// unattended says whether a process belongs to no person's session.
func unattended(p *event.Process) bool {
	if p.Origin != nil {
		return false
	}
	if p.SessionID == event.NoSession {
		return true
	}
	for depth := 0; p != nil && depth < maxInstallDepth; p, depth = p.Parent, depth+1 {
		if isNamed(p.Image, clocks) {
			return true
		}
	}
	return false
}

// strangerTerms judge where the session came from that a process belongs to.
func (e *Engine) strangerTerms(p *event.Process) terms {
	if p.Origin == nil {
		return nil
	}
	if _, ok := e.strangers.get(p.Origin.Remote); !ok {
		return nil
	}
	return terms{{clueStranger, evidence[clueStranger], fmt.Sprintf("its session came from %s, from where none came before", p.Origin.Remote.Addr().Unmap())}}
}

// remoteAccess says whether a connection logs in to another host.
func remoteAccess(p *event.Process, open *event.FlowOpen) bool {
	switch open.Remote.Port() {
	case 22, 23, 512, 513, 514, 3389, 5900:
		return true
	}
	return isNamed(p.Image, []string{"ssh", "dbclient", "telnet", "rsh", "rlogin", "mosh-client"})
}

// placeTerms judge where an image lies.
func placeTerms(p *event.Process) terms {
	for _, odd := range []struct{ trait, text string }{
		{event.TraitMemFD, "its image exists in memory only"},
		{event.TraitWorldWritable, "its image lies where everybody may write"},
		{event.TraitDeleted, "its image was deleted before it ran"},
		{event.TraitHidden, "its image is in a hidden place"},
	} {
		if slices.Contains(p.Traits, odd.trait) {
			return terms{{clueOddPlace, evidence[clueOddPlace], odd.text}}
		}
	}
	for _, dir := range []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib", "/lib", "/usr/libexec/", "/usr/share/", "/snap/", "/nix/store/"} {
		if strings.HasPrefix(p.Image, dir) {
			return nil
		}
	}
	return terms{{clueOwnPlace, evidence[clueOwnPlace], "its image belongs to no system directory"}}
}

// faces says whether an image serves the network as its purpose; what starts
// sessions does so by design and is not meant.
func (e *Engine) faces(p *event.Process) bool {
	if isNamed(p.Image, sessions) || isNamed(p.Image, shells) {
		return false
	}
	if isNamed(p.Image, services) {
		return true
	}
	if _, seen := e.accepting.get(p.Key); seen {
		return true
	}
	_, seen := e.servers.get(programOf(p))
	return seen
}

// serves remembers who accepted a connection. What an interpreter without a
// script does says nothing of its next run.
func (e *Engine) serves(p *event.Process) {
	e.accepting.put(p.Key, struct{}{})
	if p.Script != "" || !isNamed(p.Image, interpreters) {
		e.servers.put(programOf(p), struct{}{})
	}
}

func programOf(p *event.Process) string {
	if p.Script == "" {
		return p.Image
	}
	return p.Image + " " + p.Script
}

// techniquesOf a new behaviour, as far as the behaviour itself says.
func techniquesOf(o *event.Observation, kind string) []string {
	if open, ok := o.Event.(*event.FlowOpen); ok && open.Dir == event.Outbound && remoteAccess(o.Process, open) {
		return []string{"T1021.004"}
	}
	if kind == "new-flow" {
		return []string{applicationLayer}
	}
	switch {
	case isNamed(o.Process.Image, shells):
		return []string{"T1059.004"}
	case isNamed(o.Process.Image, []string{"python"}):
		return []string{"T1059.006"}
	case isNamed(o.Process.Image, interpreters):
		return []string{"T1059"}
	}
	return []string{"T1204.002"}
}

// duration for people.
func duration(d time.Duration) string {
	many := func(n int64, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d >= 48*time.Hour:
		return many(int64(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return many(int64(d/time.Hour), "hour")
	case d >= 2*time.Minute:
		return many(int64(d/time.Minute), "minute")
	}
	return many(int64(d/time.Second), "second")
}
