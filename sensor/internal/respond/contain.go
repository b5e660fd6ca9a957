package respond

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

// MaxContainments are in force at most; isolations are not among them.
const MaxContainments = 256

// tagBytes of a hash of the host's id.
const tagBytes = 4

// actLimit bounds one act from end to end: what hangs is undone and reported.
const actLimit = time.Minute

// Why a containment is refused.
var (
	// ErrNoContainment: this sensor was not given what it needs to contain.
	ErrNoContainment = errors.New("containment is not available in this sensor: only isolation is")
	// ErrContainDisabled: the host's configuration forbids it.
	ErrContainDisabled = errors.New("containment is disabled in this sensor's configuration")
	// ErrTooMany: one of those in force must end first.
	ErrTooMany = fmt.Errorf("%d containments are in force here, and no more may be: release one first", MaxContainments)
	// ErrNoTarget: the grant does not say what to act on.
	ErrNoTarget = errors.New("the target does not fit the action")
	// ErrNotHere: what is to be undone is not in force.
	ErrNotHere = errors.New("no such containment is in force on this host")
)

// ContainConfig is what containments need from the sensor. Each field may be
// absent, which refuses the actions that need it.
type ContainConfig struct {
	// Disabled refuses every containment, and ends those that a restart finds.
	Disabled bool
	// Process is how the host's processes are reached.
	Process process.Config
	// Storyline are the living processes of a storyline, and Descendants one
	// process and all that came of it, as the kernel told: also those whose parent
	// has ended. They are asked some hundred times a second during an act.
	Storyline   func(id string) []process.Member
	Descendants func(process.Member) []process.Member
	// Root is the host's file system as a path, default "/". A sensor in a mount
	// namespace of its own, where most is read-only, gives /proc/1/root.
	Root string
	// Own are paths that no file action may touch beside the state folder and this
	// program: configuration, rules.
	Own []string
	// Resolved are the addresses that a name, or one below it, resolved to here.
	Resolved func(name string) []netip.Addr
	// LookUp asks for a name now, default the system's resolver.
	LookUp func(ctx context.Context, name string) ([]netip.Addr, error)
	// ImageSize is the size of an image by its hash, when it was seen here. It
	// spares hashing every other program.
	ImageSize func(sha256 [32]byte) (int64, bool)
	// Mounts are the mount points whose programs an image block covers, default all
	// that mountinfo lists and that hold files.
	Mounts func() ([]string, error)
	// Execs says that Responder.Exec is told of every execution, so that a blocked
	// image can be ended after its exec where execs cannot be held.
	Execs bool
	// ExecDead is how long this process may be stopped while execs wait for it before
	// the kernel kills it, default 10 s; negative: never.
	ExecDead time.Duration
}

// remedy is one way to contain, and its way back.
type remedy struct {
	// check says what would be done, or why it must not be, and does nothing.
	check func(ctx context.Context, t *sensorv1.Target) (string, error)
	// apply does it and proves it. It may be called again on what is half done, and
	// calls save after each change of c.State and before what that describes.
	apply func(ctx context.Context, c *containment, save func()) (proof string, err error)
	// undo puts back exactly what apply changed, also if that was only half of it.
	undo func(ctx context.Context, c *containment) (detail string, err error)
	// keep looks after it, every tick: a non-empty answer is drift that was repaired.
	keep func(ctx context.Context, c *containment, save func()) (drift string, err error)
	// recover finds what is in force without a record.
	recover func() []*containment
	// forget is called when nothing of it is left.
	forget func(c *containment)
	// final: there is no undo and so no lease.
	final bool
	// transient: a reboot ends it.
	transient bool
}

// phaseEnding: the undo did not work yet and is tried again.
const phaseEnding phase = "ending"

// containment is one in force.
type containment struct {
	lease
	// ID names what it left in the kernel and on disk: its first operation and the
	// sensor's tag.
	ID     string          `json:"id"`
	Action sensorv1.Action `json:"action"`
	Target []byte          `json:"target"` // sensorv1.Target
	State  json.RawMessage `json:"state,omitempty"`
	Digest []byte          `json:"digest,omitempty"` // of the grant
	// Ending is what to report when an undo that is tried again works.
	Ending sensorv1.IsolationState `json:"ending,omitempty"`
	Why    string                  `json:"why,omitempty"`

	lastFailure string
	tampers     tamperLog
	ran         tamperLog // executions of a blocked image
}

func (c *containment) target() *sensorv1.Target {
	t := new(sensorv1.Target)
	_ = proto.Unmarshal(c.Target, t) // written by this package
	return t
}

// remember and recall keep what the remedy needs for its undo.
func (c *containment) remember(state any) {
	if raw, err := json.Marshal(state); err == nil {
		c.State = raw
	}
}

func (c *containment) recall(state any) error {
	if len(c.State) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.State, state); err != nil {
		return fmt.Errorf("reading the state of %s: %w", c.ID, err)
	}
	return nil
}

func (c *containment) status(state sensorv1.IsolationState, detail string) *sensorv1.IsolationStatus {
	s := &sensorv1.IsolationStatus{
		Operation: c.Operation, Nonce: c.Nonce, State: state, Detail: detail, AppliedAt: c.AppliedAt,
		LeaseExpires: c.WallDeadline, SelfTest: c.SelfTest, Action: c.Action, Target: c.target(),
		Local: c.Local, Evidence: c.Evidence, IntentVersion: c.IntentVersion, Policies: c.Policies,
	}
	if state != sensorv1.IsolationState_ISOLATION_STATE_APPLIED && state != sensorv1.IsolationState_ISOLATION_STATE_PENDING {
		s.LeaseExpires = 0
	}
	return s
}

// containments are all but the isolation. acting serialises what is done; mu
// guards the list, so that it can be looked at meanwhile.
type containments struct {
	cfg      *ContainConfig
	r        *Responder
	remedies map[sensorv1.Action]*remedy
	file     containFile
	kick     chan struct{}
	closers  []func() error
	// tag ends the ID of all that this sensor does: several may share a kernel.
	tag     string
	network *network
	images  *images

	acting sync.Mutex
	ticks  uint64 // rounds of looking after; acting guards it
	mu     sync.Mutex
	record containRecord
}

func newContainments(r *Responder) (*containments, error) {
	c := &containments{
		cfg: r.cfg.Contain, r: r, remedies: map[sensorv1.Action]*remedy{},
		file: newContainFile(r.cfg.StateDir), kick: make(chan struct{}, 1),
	}
	if r.cfg.HostID != "" {
		sum := sha256.Sum256([]byte(r.cfg.HostID))
		c.tag = "-" + hex.EncodeToString(sum[:tagBytes])
	}
	if c.cfg == nil {
		return c, nil
	}
	c.addProcess()
	c.addFile()
	c.addAccount()
	c.addImage()
	return c, c.addNetwork()
}

func (c *containments) close() error {
	c.acting.Lock()
	defer c.acting.Unlock()
	var problems []error
	for _, closer := range c.closers {
		problems = append(problems, closer())
	}
	return errors.Join(problems...)
}

func (c *containments) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Containments are the operations in force, oldest first; an isolation is not
// among them.
func (r *Responder) Containments() []string {
	r.contain.mu.Lock()
	defer r.contain.mu.Unlock()
	var operations []string
	for _, c := range r.contain.record.Active {
		operations = append(operations, c.Operation)
	}
	return operations
}

func (c *containments) list() []*containment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.record.Active)
}

func (c *containments) change(fn func(*containRecord)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.record)
}

func (c *containments) drop(gone *containment) {
	c.change(func(r *containRecord) {
		r.Active = slices.DeleteFunc(r.Active, func(x *containment) bool { return x == gone })
	})
	if remedy := c.remedies[gone.Action]; remedy != nil && remedy.forget != nil {
		remedy.forget(gone)
	}
}

// save persists all; the error is for the report of what could not be saved.
func (c *containments) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.file.save(&c.record)
	if err != nil {
		c.r.cfg.Logger.Error("containment state is not saved", "error", err)
	}
	return err
}

// report hands outcomes on in the order of their coming about, isolation's included.
func (c *containments) report(statuses ...*sensorv1.IsolationStatus) {
	c.r.mu.Lock()
	for _, status := range statuses {
		c.r.report(status)
	}
	c.r.unlockAndReport()
}
