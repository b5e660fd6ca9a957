// Package session tells login sessions: who logged in, through which program, from
// where, on which terminal, and when it ended.
//
// The kernel's word comes first: the first exec in an audit session that is new (PAM sets
// it, and a process cannot leave it) is a login, and the end of the process that let it in
// is its end. Where it came from is the accepted connection that it serves. wtmp adds the
// terminal, for which a login waits two seconds at most, and tells logins of programs that
// set no audit session.
//
// Invariant: what files say never takes away or changes what the kernel said, and each
// session is told once.
package session

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

const (
	// maxSessions bounds the sessions that are remembered; the oldest goes first.
	maxSessions = 1024
	// maxPending bounds the logins of files that wait to be told.
	maxPending = 256
	// above is how far up a session's processes the one that a file names may be: the
	// program that let it in writes its own number, or its child's.
	above = 4
	// maxChain bounds the processes by which a session is known, before it is told.
	maxChain = 64
	// lookEvery is how often files are looked at. A record waits one look, so that the
	// kernel's word is there before it.
	lookEvery = time.Second
	// patience is how many looks a login waits for its record: without a terminal there
	// is none.
	patience = 2
	// stale is how old a record may be that is taken for news: a file that was put in
	// another's place holds all of the past.
	stale = 5 * time.Minute
)

// Config is what a Tracker can be told.
type Config struct {
	// Wtmp is the file of logins; default /var/log/wtmp.
	Wtmp string
	// Proc is where procfs is mounted; default /proc.
	Proc string
	// Find names a living process by its number.
	Find func(pid uint32) (event.ProcessKey, bool)
	// Now is the clock; default the machine's.
	Now    func() time.Time
	Logger *slog.Logger
}

// Session is one login session.
type Session struct {
	event.Login
	Began time.Time
	chain []uint32         // the numbers of its first process and of those above
	lead  event.ProcessKey // with whose end it ends
	looks int
	told  bool
	ended bool
}

// Tracker is the stage. Observe is for one goroutine, Run for another.
type Tracker struct {
	cfg  Config
	wtmp file

	mu       sync.Mutex
	begun    uint32 // sessions up to this number began before the sensor
	sessions []*Session
	waiting  []record // of the last look
	records  []record // that may add to a login that the kernel is about to tell
	pending  []*event.Login
	dropped  uint64
}

// New makes a Tracker that tells what begins from now on.
func New(cfg Config) *Tracker {
	if cfg.Wtmp == "" {
		cfg.Wtmp = "/var/log/wtmp"
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tracker{cfg: cfg, wtmp: file{path: cfg.Wtmp}}
	t.begun = newest(cfg.Proc)
	t.refresh()
	return t
}

// newest is the highest session that a process belongs to: the kernel gives out the
// numbers in order.
func newest(proc string) (highest uint32) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if name := e.Name(); name[0] < '0' || name[0] > '9' {
			continue
		}
		raw, err := os.ReadFile(path.Join(proc, e.Name(), "sessionid"))
		if err != nil {
			continue
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32); err == nil && id != event.NoSession {
			highest = max(highest, uint32(id))
		}
	}
	return highest
}

// Run looks at wtmp until ctx ends.
func (t *Tracker) Run(ctx context.Context) error {
	for range pulse.Ticks(ctx, lookEvery) {
		t.look()
	}
	return nil
}

func (t *Tracker) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := t.refresh()
	for _, r := range t.waiting {
		t.tell(r)
	}
	t.waiting = fresh
	for _, s := range t.sessions {
		if s.told {
			continue
		}
		if s.looks++; t.match(s) || s.looks >= patience {
			s.told = true
			t.queue(s.Login)
		}
	}
}

// refresh reads what was added to wtmp; it needs mu, but for New.
func (t *Tracker) refresh() []record {
	fresh, err := t.wtmp.look()
	if err != nil {
		t.cfg.Logger.Debug("reading logins", "error", err)
	}
	fresh = slices.DeleteFunc(fresh, func(r record) bool {
		return r.kind != userProcess && r.kind != deadProcess || t.cfg.Now().Sub(r.time).Abs() > stale
	})
	t.records = append(t.records, fresh...)
	if over := len(t.records) - maxPending; over > 0 {
		t.records = slices.Delete(t.records, 0, over)
	}
	return fresh
}

// tell makes a login or an end of a record, unless the kernel told it.
func (t *Tracker) tell(r record) {
	s := t.byRecord(r)
	switch {
	case r.kind == userProcess && s != nil:
		s.fill(r)
	case r.kind == userProcess:
		key, ok := t.cfg.Find(r.pid)
		if !ok {
			return // it has ended already, or the file lies
		}
		began := &Session{Began: r.time, chain: []uint32{r.pid}}
		began.User, began.Via, began.LoginUID, began.SessionID = r.user, "utmp", event.NoSession, event.NoSession
		began.Process, began.Parent = key, event.ProcessKey{}
		began.fill(r)
		began.told, began.lead = true, key
		t.add(began)
		t.queue(began.Login)
	case s != nil && s.SessionID == event.NoSession && !s.ended:
		s.ended = true
		end := s.Login
		end.End = true
		t.queue(end)
	}
}

func (t *Tracker) queue(l event.Login) {
	if len(t.pending) >= maxPending {
		t.dropped++
		return
	}
	t.pending = append(t.pending, &l)
}

// Losses are the logins that came faster than they could be told.
func (t *Tracker) Losses() []event.Loss {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped == 0 {
		return nil
	}
	return []event.Loss{{Where: "logins", Cause: "too many at once", Count: t.dropped}}
}

// byRecord finds a session by the process that a record names, or the terminal at its end.
func (t *Tracker) byRecord(r record) *Session {
	for _, s := range slices.Backward(t.sessions) {
		if slices.Contains(s.chain, r.pid) || r.kind == deadProcess && s.Terminal == r.terminal && !s.ended {
			return s
		}
	}
	return nil
}

// fill adds what the kernel does not know.
func (s *Session) fill(r record) {
	if s.Terminal == "" {
		s.Terminal = r.terminal
	}
	s.Host = r.host
	if !s.Source.IsValid() && r.addr.IsValid() {
		s.Source = netip.AddrPortFrom(r.addr, 0)
	}
}

func (t *Tracker) add(s *Session) {
	if len(t.sessions) >= maxSessions {
		t.sessions = slices.Delete(t.sessions, 0, 1)
	}
	t.sessions = append(t.sessions, s)
}

// Observe takes the next event, with its observation where it has one, and returns the
// logins and ends that are to be told.
func (t *Tracker) Observe(ev event.Event, o *event.Observation) (logins []*event.Login) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch ev := ev.(type) {
	case *event.Exec:
		t.exec(ev, o)
	case *event.Exit:
		for _, s := range t.sessions {
			if s.lead == ev.Process && !s.ended {
				t.end(s, ev)
			}
		}
	}
	logins, t.pending = t.pending, nil
	return logins
}

// exec is a login when its session is new.
func (t *Tracker) exec(ev *event.Exec, o *event.Observation) {
	if ev.SessionID == event.NoSession || ev.LoginUID == event.NoSession || ev.SessionID <= t.begun || o == nil {
		return
	}
	at := slices.IndexFunc(t.sessions, func(s *Session) bool { return s.SessionID == ev.SessionID })
	var s *Session
	if at >= 0 {
		s = t.sessions[at]
	} else {
		s = begin(ev, o)
		t.add(s)
	}
	if s.told {
		return
	}
	// The first may be a helper of PAM's, the next the shell.
	if len(s.chain) < maxChain {
		s.chain = append(s.chain, o.Process.Key.PID)
	}
	t.waiting = append(t.waiting, t.refresh()...)
	if t.match(s) {
		s.told = true
		t.queue(s.Login)
	}
}

func begin(ev *event.Exec, o *event.Observation) *Session {
	s := &Session{Began: o.Time, lead: lead(o)}
	s.Header = ev.Header
	s.LoginUID, s.SessionID = ev.LoginUID, ev.SessionID
	s.User, s.Via = userName(ev.LoginUID, o.Process), via(o)
	if o.Process.Origin != nil {
		s.Source = o.Process.Origin.Remote
	}
	for _, a := range o.Process.Ancestors(above) {
		if a.Key.PID > 1 {
			s.chain = append(s.chain, a.Key.PID)
		}
	}
	return s
}

// lead is the process that let the session in and waits for its end: the one that was
// forked to serve the connection, else the program's part that forked the first process.
func lead(o *event.Observation) event.ProcessKey {
	p := o.Process
	switch {
	case p.Origin != nil:
		return p.Anchor
	case p.Parent != nil && p.Parent.Key.PID > 1 && o.Before != nil && p.Parent.Image == o.Before.Image:
		return p.Parent.Key
	}
	return p.Key
}

// match adds what wtmp says of a session; it needs mu.
func (t *Tracker) match(s *Session) bool {
	for _, r := range slices.Backward(t.records) {
		if r.kind == userProcess && slices.Contains(s.chain, r.pid) && s.Began.Sub(r.time).Abs() < stale {
			s.fill(r)
			return true
		}
	}
	return false
}

func (t *Tracker) end(s *Session, ev *event.Exit) {
	if !s.told {
		t.match(s)
		t.queue(s.Login)
	}
	end := s.Login
	end.Time, end.End = ev.Time, true
	s.told, s.ended = true, true
	t.queue(end)
}

// via is the program that let it in: what the process was before, by its common name.
func via(o *event.Observation) string {
	if o.Before == nil {
		return ""
	}
	name, _, _ := strings.Cut(path.Base(o.Before.Image), "-session")
	return name
}

func userName(uid uint32, p *event.Process) string {
	if p.UID == uid && p.User != "" {
		return p.User
	}
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}

// Evidence says in a sentence by which login a process came to be; "" when by none.
func (t *Tracker) Evidence(p *event.Process) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(p)
	if s == nil {
		return ""
	}
	text := fmt.Sprintf("%s logged in", printable(s.User))
	if s.Via != "" {
		text += " through " + printable(s.Via)
	}
	switch {
	case s.Source.IsValid() && s.Source.Port() != 0:
		text += " from " + netip.AddrPortFrom(s.Source.Addr().Unmap(), s.Source.Port()).String()
	case s.Source.IsValid():
		text += " from " + s.Source.Addr().String()
	case s.Host != "":
		text += " from " + printable(s.Host)
	}
	if s.Terminal != "" {
		text += " on " + printable(s.Terminal)
	}
	return text + " at " + s.Began.UTC().Format(time.RFC3339) + "."
}

// Entry is the login by which a process came to be; nil when it is by none.
func (t *Tracker) Entry(p *event.Process) *event.Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(p)
	if s == nil {
		return nil
	}
	return &event.Entry{User: s.User, Source: s.Source.Addr().Unmap()}
}

func (t *Tracker) of(p *event.Process) *Session {
	chain := append([]*event.Process{p}, p.Ancestors(64)...)
	for _, s := range slices.Backward(t.sessions) {
		if s.SessionID != event.NoSession {
			if p.SessionID == s.SessionID {
				return s
			}
			continue
		}
		if slices.ContainsFunc(chain, func(a *event.Process) bool { return a.Key == s.Process }) {
			return s
		}
	}
	return nil
}

// printable makes bytes of others safe to print, and short.
func printable(text string) string {
	const most = 64
	if len(text) > most {
		text = text[:most]
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}
