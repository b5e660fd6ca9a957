package detect

import (
	"fmt"
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

// term is one reason for a score.
type term struct {
	points float64
	text   string
}

// serviceSpawn, freshImage, … are points. New behaviour alone scores at most 30,
// so that a new program of an administrator stays below the threshold of 50: it
// takes an odd place, an odd actor, or a storyline that is suspect already.
const (
	maxNovelty    = 30.0
	pointsPerBit  = 1.5
	serviceSpawn  = 25.0
	shellOfOne    = 15.0
	shellOther    = 5.0
	servingNow    = 10.0
	freshImage    = 10.0
	oddPlace      = 20.0
	ownPlace      = 5.0
	setID         = 10.0
	systemUser    = 5.0
	remoteSession = 5.0
	offHost       = 10.0
	stranger      = 20.0
	hop           = 15.0
	textProgram   = 10.0
	oddPort       = 5.0
	loopback      = -25.0
	failedConnect = -5.0
)

// youngFor is how long after its first execution an image counts as a newcomer.
const youngFor = 24 * time.Hour

// anomaly judges behaviour that is new on this host.
func (e *Engine) anomaly(o *event.Observation, v event.Verdict, s *story) *event.Finding {
	tainted := s.within(alertFor, o.Time)
	if !v.Tracked || !v.New || v.Learning {
		return nil
	}
	var terms []term
	var kind, title, did string
	switch ev := o.Event.(type) {
	case *event.Exec:
		kind, title = "new-exec", "Unusual program start: "+plain(base(o.Process.Image), 60)
		terms, did = e.execTerms(o, v)
	case *event.FlowOpen:
		if _, _, marked := e.markOf(o.Process); marked {
			return nil // told as a follow-up, in learning as well
		}
		kind, title = "new-flow", "Unusual connection of "+plain(base(o.Process.Image), 60)
		terms, did = e.flowTerms(o, ev, v)
	default:
		return nil
	}
	score := min(maxNovelty, pointsPerBit*v.Surprise)
	for _, t := range terms {
		score += t.points
	}
	score = min(max(score, 0), 100)
	threshold := e.cfg.Threshold
	if tainted {
		threshold = e.cfg.TaintedThreshold
	}
	if score < threshold {
		return nil
	}
	what := string(v.Behaviour.Key[:])
	key := tellKey{what: what, who: o.Process.Key}
	if _, done := e.told.get(key); done {
		return nil
	}
	e.told.put(key, struct{}{})

	f := e.draft(o, v, s)
	f.Kind, f.Title, f.Score = kind, title, score
	f.Severity = severityOf(score)
	f.Techniques = techniquesOf(o, kind)
	var because []string
	for _, t := range terms {
		if t.points > 0 && t.text != "" {
			because = append(because, t.text)
		}
	}
	f.Reason = fmt.Sprintf("%s, which it never did in %s on this host", did, duration(v.Watched))
	if len(because) > 0 {
		f.Reason += "; " + strings.Join(because, "; ")
	}
	if tainted {
		f.Reason += "; its storyline already has a finding"
	}
	f.Reason += fmt.Sprintf(" (%.1f bits of surprise).", v.Surprise)
	return e.tell(f, what, s)
}

func (e *Engine) execTerms(o *event.Observation, v event.Verdict) ([]term, string) {
	p := o.Process
	parent := p.Parent
	if parent == nil {
		parent = o.Before
	}
	actor := "an unknown process"
	var terms []term
	add := func(points float64, format string, args ...any) {
		terms = append(terms, term{points, fmt.Sprintf(format, args...)})
	}
	isShell := isNamed(p.Image, shells) || isNamed(p.Image, interpreters)
	if parent != nil {
		actor = who(parent)
		spawner := parent
		if o.Before != nil && e.faces(o.Before) {
			spawner = o.Before
		}
		switch {
		case e.faces(spawner):
			add(serviceSpawn, "%s serves the network", plain(base(spawner.Image), 60))
			if isShell {
				add(shellOfOne, "%s runs commands for whoever controls it", plain(base(p.Image), 60))
			}
		case isShell && !isNamed(spawner.Image, sessions) && !isNamed(spawner.Image, shells):
			add(shellOther, "")
		}
	}
	if p.Origin != nil && !p.Origin.Remote.Addr().IsLoopback() {
		points := remoteSession
		if p.Anchor == p.Key && !isNamed(p.Image, sessions) {
			points = servingNow
		}
		add(points, "the image runs with an inbound session from %s", p.Origin.Remote.Addr().Unmap())
	} else if p.Origin != nil && p.Anchor == p.Key && !isNamed(p.Image, sessions) {
		add(servingNow, "it was started while a connection from %s was served", endpoint(p.Origin.Remote))
	}
	if v.ImageNew {
		add(freshImage, "this image was never seen on this host")
	}
	terms = append(terms, e.strangerTerms(p)...)
	terms = append(terms, placeTerms(p)...)
	if slices.Contains(p.Traits, event.TraitSetID) {
		add(setID, "it gained privileges by its file")
	}
	if isShell && p.UID > 0 && p.UID < 1000 {
		add(systemUser, "it runs as the service account %s", plain(p.User, 40))
	}
	return terms, fmt.Sprintf("%s started %s", actor, plain(p.Image, 160))
}

func (e *Engine) flowTerms(o *event.Observation, ev *event.FlowOpen, v event.Verdict) ([]term, string) {
	p := o.Process
	var terms []term
	add := func(points float64, format string, args ...any) {
		terms = append(terms, term{points, fmt.Sprintf(format, args...)})
	}
	remote := ev.Remote.Addr().Unmap()
	if remote.IsLoopback() {
		add(loopback, "")
	}
	if ev.Dir == event.Inbound {
		terms = append(terms, placeTerms(p)...)
		if v.ImageNew {
			add(freshImage, "this image was never seen on this host")
		}
		if isNamed(p.Image, shells) {
			add(serviceSpawn, "a shell accepts connections")
		}
		return terms, who(p) + " " + connection(o.Flow)
	}
	if !remote.IsLoopback() {
		add(offHost, "")
	}
	if ev.Failed {
		add(failedConnect, "")
	}
	if since, ok := e.young.get(p.Image); ok && o.Time.Sub(since) < youngFor {
		add(2*freshImage, "this image first ran here %s ago", duration(o.Time.Sub(since)))
	} else if v.ImageNew {
		add(freshImage, "this image was never seen on this host")
	}
	terms = append(terms, placeTerms(p)...)
	terms = append(terms, e.strangerTerms(p)...)
	if remoteAccess(p, ev) && p.Origin != nil && !p.Origin.Remote.Addr().IsLoopback() && !remote.IsLoopback() {
		add(hop, "it goes on to another host from inside a session")
	}
	switch {
	case isNamed(p.Image, shells):
		add(serviceSpawn, "a shell has no network use of its own")
	case isNamed(p.Image, interpreters) && p.Script == "":
		add(textProgram, "it runs a program given on its command line")
	}
	if p.Origin != nil && p.Parent != nil && e.faces(p.Parent) {
		add(servingNow, "it serves a session from %s", endpoint(p.Origin.Remote))
	}
	if port := ev.Remote.Port(); port >= 1024 || port == 23 || port == 25 {
		add(oddPort, "port %d is no usual service's", port)
	}
	return terms, who(p) + " " + connection(o.Flow)
}

// strangerTerms judge where the session came from that a process belongs to.
func (e *Engine) strangerTerms(p *event.Process) []term {
	if p.Origin == nil {
		return nil
	}
	if _, ok := e.strangers.get(p.Origin.Remote); !ok {
		return nil
	}
	return []term{{stranger, fmt.Sprintf("its session came from %s, from where none came before", p.Origin.Remote.Addr().Unmap())}}
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
func placeTerms(p *event.Process) []term {
	for _, t := range []struct{ trait, text string }{
		{event.TraitMemFD, "its image exists in memory only"},
		{event.TraitWorldWritable, "its image lies where everybody may write"},
		{event.TraitDeleted, "its image was deleted before it ran"},
		{event.TraitHidden, "its image is in a hidden place"},
	} {
		if slices.Contains(p.Traits, t.trait) {
			return []term{{oddPlace, t.text}}
		}
	}
	for _, dir := range []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib", "/lib", "/usr/libexec/", "/usr/share/", "/snap/", "/nix/store/"} {
		if strings.HasPrefix(p.Image, dir) {
			return nil
		}
	}
	return []term{{ownPlace, "its image belongs to no system directory"}}
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

func severityOf(score float64) event.Severity {
	switch {
	case score >= 85:
		return event.Critical
	case score >= 65:
		return event.High
	case score >= 45:
		return event.Medium
	case score >= 25:
		return event.Low
	}
	return event.Informational
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
