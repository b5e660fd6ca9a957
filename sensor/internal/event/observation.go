package event

import (
	"net/netip"
	"time"
)

// Process is what is known of a process. Immutable: enrich replaces it.
type Process struct {
	Key           ProcessKey
	Parent        *Process // nil for PID 1, kernel threads' root and the edge of a scope
	StartTime     time.Time
	Image         string // canonical path; raw bytes in a string, may be non-UTF-8
	ImageID       ImageID
	SHA256        [32]byte // zero: not (yet) hashed
	Hashed        bool
	Interpreter   string
	Script        string // for interpreters: the script's path as given
	Argv          []string
	ArgvBytes     uint32
	ArgvTruncated bool
	UID           uint32
	User          string
	LoginUID      uint32
	SessionID     uint32 // the kernel's audit session; NoSession outside of one
	Cwd           string
	Unit          string // systemd unit, "" when none
	Container     string // container id (64 hex) when its cgroup says so
	Cgroup        string // path below the v2 mount
	Traits        []string
	// Origin is the accepted flow that this process was forked to serve, inherited by children.
	Origin *Flow
	// Anchor is the root of this process's storyline: the service or the session it belongs to.
	Anchor ProcessKey
	Exited bool
}

// NoSession is the login uid and session id of what belongs to no login session.
const NoSession = 1<<32 - 1

// Image traits.
const (
	TraitMemFD         = "memfd"
	TraitDeleted       = "deleted"
	TraitWorldWritable = "world-writable-dir"
	TraitSetID         = "set-id"
	TraitHidden        = "hidden-path"
	// TraitOutsideScope: an ancestor that the sensor's scope does not cover; told from /proc.
	TraitOutsideScope = "outside-scope"
	// TraitUnseen: ended before anything could be learnt of it but its key.
	TraitUnseen = "unseen"
)

// Ancestors returns the chain from the parent upward, nearest first, at most limit.
func (p *Process) Ancestors(limit int) []*Process {
	var chain []*Process
	for a := p.Parent; a != nil && len(chain) < limit; a = a.Parent {
		chain = append(chain, a)
	}
	return chain
}

// Flow is a flow as evidence.
type Flow struct {
	ID                FlowID
	Proto             uint8
	Dir               Direction
	Local, Remote     netip.AddrPort
	Name              string // what Remote was resolved from on this host
	BytesIn, BytesOut uint64
	Opened, Closed    time.Time
	Failed            bool
}

// Observation is an event joined with who did it.
type Observation struct {
	Event   Event
	Time    time.Time
	Process *Process // the process after the event (for an Exec: the new image); never nil
	// Before is the process's state before an Exec, nil otherwise.
	Before *Process
	Flow   *Flow // FlowOpen and FlowClose
	// Target is the process that a Privilege event was done to, nil when there is none.
	Target *Process
}

// BehaviourKind is the sort of a behaviour.
type BehaviourKind uint8

// Behaviour kinds; the numbers are sensorv1.BehaviourKind's.
const (
	BehaviourExec      BehaviourKind = 1
	BehaviourFlow      BehaviourKind = 2
	BehaviourLookup    BehaviourKind = 3
	BehaviourFile      BehaviourKind = 4
	BehaviourPrivilege BehaviourKind = 5
)

// BehaviourKey is the behaviour's name in every store: the first 16 bytes of
// SHA-256 over kind, subject and object, each length-prefixed.
type BehaviourKey [16]byte

// Behaviour is one normalised "who did what to what".
type Behaviour struct {
	Key     BehaviourKey
	Kind    BehaviourKind
	Subject string // the parent's image (exec), the image (flow, look-up, file, privilege); empty: any
	Object  string // the image (exec); direction, peer and port (flow); the domain (look-up); operation and path (file); what was done to what (privilege)
}

// Share is how many of how many hosts have a behaviour; the zero value: nobody can say.
type Share struct{ Have, Of uint32 }

// Verdict is what the baseline knew of an observation's behaviour before it.
type Verdict struct {
	Behaviour Behaviour
	Tracked   bool   // false: this observation has no behaviour (a fork, an exit, …)
	New       bool   // never seen on this host before
	Known     bool   // seen in enough distinct windows
	Learning  bool   // the host is still learning: novelty alone is no finding
	Paused    bool   // a coordinator has the host learn nothing
	Early     bool   // judged although the host learns: a pack says what is usual on its like
	Seen      uint64 // times before
	// ImageNew: the acting image itself was never seen on this host.
	ImageNew bool
	// Watched is how long this host was observed: what "never" is to mean in a reason.
	Watched time.Duration
	// Surprise in bits: how improbable this behaviour is given what its subject usually
	// does here, and what the peers do. It has no part of HourBits.
	Surprise float64
	// HostBits is what it would be by this host alone.
	HostBits float64
	// Group and Fleet are what Surprise knew of the peers.
	Group, Fleet Share
	// HourBits is how much less likely the behaviour is at this hour of the day than at
	// any; 0 where too little is known. Hours are those in which it was seen, as text.
	HourBits float64
	Hours    string
	// Timed: it is rare and keeps to its hours, so that every occurrence is to be told.
	Timed bool
}

// Severity in Sigma's words.
type Severity string

// Severities.
const (
	Informational Severity = "informational"
	Low           Severity = "low"
	Medium        Severity = "medium"
	High          Severity = "high"
	Critical      Severity = "critical"
)

// Finding is one scored anomaly or rule match with its evidence.
type Finding struct {
	ID         string // 26 characters, ULID form: sorts by time
	Time       time.Time
	Kind       string // rule, new-exec, new-flow, follow-up
	Title      string
	RuleID     string
	Severity   Severity
	Techniques []string // ATT&CK ids
	Score      float64  // 0..100
	// PValue is how likely an ordinary window of this host has a storyline as odd as
	// this; 0: not scored by its oddness. Terms are what it was made of, the largest first.
	PValue    float64
	Terms     []Term
	Storyline string // "PID.START" of the storyline's root
	Process   *Process
	Flows     []*Flow
	Lookups   []string
	Origin    *Flow
	Losses    []Loss // in the window that this was decided in
	Reason    string // one or two sentences for a person
	Learning  bool
	Login     *Entry // nil: its process belongs to none
}

// Term is one reason for a score.
type Term struct {
	Bits float64 // of evidence: 1 doubles the odds
	Text string  // a sentence's part, for a person
}

// Entry is who logged in, and from where; Source is invalid where it was not over a network.
type Entry struct {
	User   string
	Source netip.Addr
}

// FlowNote is a flow of a storyline that has findings.
type FlowNote struct {
	Storyline string
	Process   *Process
	Flow      *Flow
	Carried   string // the storyline at the other end, "HOST/STORYLINE", that the mark came from
}

// Health is what the sensor says of itself in each summary.
type Health struct {
	RSSBytes         uint64
	CPU              time.Duration
	EventsTotal      uint64
	EventsSuppressed uint64
	EventsLost       uint64
	CoverageGaps     []string
	Isolation        string
	Blind            string   // why what it says is not to be relied on; empty: it sees
	Degraded         []string // what it leaves out to stay inside its budget, one sentence each
}

// BehaviourDelta is a count since the last summary.
type BehaviourDelta struct {
	Key      BehaviourKey
	Count    uint64
	LastSeen time.Time
	Known    bool
}

// BaselineState is how far learning is.
type BaselineState struct {
	Behaviours uint64
	Known      uint64
	Confidence float64 // 0..1
	Learning   bool
}

// Summary is the periodic message.
type Summary struct {
	Start, End time.Time
	New        []Behaviour
	FirstSeen  []time.Time // parallel to New
	Deltas     []BehaviourDelta
	Baseline   BaselineState
	Health     Health
	Losses     []Loss
}
