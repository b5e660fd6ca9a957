package respond

import (
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// Clock is what a lease is measured by.
type Clock interface {
	// Now is the wall clock: for people, and for the time spent between two boots.
	Now() time.Time
	// Boot is the time since the kernel started, suspended time included.
	Boot() time.Duration
	// BootID differs from boot to boot.
	BootID() string
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) Boot() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic("respond: reading CLOCK_BOOTTIME: " + err.Error()) // there since Linux 2.6.39
	}
	return time.Duration(now.Nano())
}

func (systemClock) BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		// Without it the wall clock is used, still bounded by the lease's length.
		return ""
	}
	return strings.TrimSpace(string(id))
}

type phase string

const (
	// phaseTesting: in the kernel, not proved yet. A restart goes on with the proof.
	phaseTesting phase = "testing"
	phaseApplied phase = "applied"
)

// lease is one isolation in force.
type lease struct {
	Operation string        `json:"operation"`
	Nonce     []byte        `json:"nonce"`
	Operator  string        `json:"operator"`
	Reason    string        `json:"reason"`
	Phase     phase         `json:"phase"`
	SelfTest  string        `json:"self_test"`
	AppliedAt int64         `json:"applied_at"` // Unix ns
	Length    time.Duration `json:"length_ns"`
	// Nodes are the coordinators that stay open, pinned when the isolation began; Serial
	// is that of the signed list that they are from, 0 when nobody signed them. Next is a
	// signed list that stands open beside them until one of its nodes has been reached.
	Nodes  []netip.AddrPort `json:"nodes"`
	Serial uint64           `json:"nodes_serial,omitempty"`
	Next   *nodeList        `json:"nodes_next,omitempty"`
	Level  isolation.Level  `json:"level,omitempty"`
	// Stopped are processes that stand still for the time of it.
	Stopped []StoppedProcess `json:"stopped,omitempty"`
	// Local: begun on this host's own evidence, by the intent that it held.
	Local         bool     `json:"local,omitempty"`
	Evidence      []string `json:"evidence,omitempty"`
	IntentVersion uint64   `json:"intent_version,omitempty"`
	Policies      []string `json:"policies,omitempty"`

	// The deadline, on the clock of one boot and on the wall.
	BootID       string        `json:"boot_id"`
	BootDeadline time.Duration `json:"boot_deadline_ns"`
	WallDeadline int64         `json:"wall_deadline"` // Unix ns
}

func newLease(clock Clock, length time.Duration) *lease {
	now := clock.Now()
	return &lease{
		Length: length, AppliedAt: now.UnixNano(),
		BootID: clock.BootID(), BootDeadline: clock.Boot() + length, WallDeadline: now.Add(length).UnixNano(),
	}
}

// remaining is what is left of the lease. In the boot that it was made in only
// the boot clock counts; after another boot the wall clock does. A clock that
// went back cannot give more than the lease's length.
func (l *lease) remaining(clock Clock) time.Duration {
	left := l.BootDeadline - clock.Boot()
	if l.BootID == "" || l.BootID != clock.BootID() {
		left = time.Duration(l.WallDeadline - clock.Now().UnixNano())
	}
	return min(left, l.Length)
}

// rebase fixes the deadline on this boot's clock, so that the wall clock is
// asked once for each boot.
func (l *lease) rebase(clock Clock) {
	if l.BootID != "" && l.BootID == clock.BootID() {
		return
	}
	left := l.remaining(clock)
	l.BootID, l.BootDeadline = clock.BootID(), clock.Boot()+left
	l.WallDeadline = clock.Now().Add(left).UnixNano()
	// What was used up before this boot stays used up, however often this happens.
	l.Length = max(left, 0)
}
