package respond

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// maxLocalReason is what the coordinator allows an operator's reason to be.
const maxLocalReason = 1024

var (
	// ErrInUse: a running sensor holds the lease and would put the cut back.
	ErrInUse = errors.New("a sensor runs with this state folder")
	// ErrBadReason: what is to be told to the cluster cannot be told.
	ErrBadReason = fmt.Errorf("a reason is 1 to %d bytes of text on one line", maxLocalReason)
)

// LocalEnd is the end of an isolation by whoever is root on the host.
type LocalEnd struct {
	// StateDir is the sensor's. It may be gone: then there is nothing to remember.
	StateDir string
	// NetNS is the isolated namespace, a path; empty: the caller's own.
	NetNS string
	// HostID is the sensor's: what containments left without a record is known by it.
	// Empty: only what is on record ends.
	HostID string
	// By and Reason are told to the cluster as they stand.
	By, Reason string
	// Lift ends what an isolation's first cut left in the kernel, and lets the processes
	// go on that it stopped. It is called also when no isolation is on record; nil: nothing.
	Lift   func(stopped []StoppedProcess) error
	Logger *slog.Logger
	Clock  Clock // default: the system's
}

// localEnd is remembered until a sensor has reported it.
type localEnd struct {
	Operation string `json:"operation"`
	Nonce     []byte `json:"nonce"`
	AppliedAt int64  `json:"applied_at"` // Unix ns
	EndedAt   int64  `json:"ended_at"`   // Unix ns
	By        string `json:"by"`
	Reason    string `json:"reason"`
}

func (e *localEnd) status() *sensorv1.IsolationStatus {
	return &sensorv1.IsolationStatus{
		Operation: e.Operation, Nonce: e.Nonce, AppliedAt: e.AppliedAt,
		State: sensorv1.IsolationState_ISOLATION_STATE_RELEASED,
		Detail: fmt.Sprintf("ended by %s, without a grant, at %s: %s",
			e.By, time.Unix(0, e.EndedAt).UTC().Format(time.RFC3339), e.Reason),
	}
}

// EndLocally takes the cut away without a grant and without the sensor, and
// returns the operation that it ended, "" when this host was not isolated. Root
// could do as much with nft; this way the sensor reports it when it starts next,
// because the lease ends in the same write that remembers who ended it.
func EndLocally(_ context.Context, e LocalEnd) (string, error) {
	if e.Logger == nil {
		e.Logger = slog.Default()
	}
	if e.Clock == nil {
		e.Clock = systemClock{}
	}
	if e.Reason == "" || len(e.Reason) > maxLocalReason || strings.ContainsFunc(e.Reason, unicode.IsControl) ||
		!utf8.ValidString(e.Reason) {
		return "", ErrBadReason
	}
	lock, err := lockState(e.StateDir)
	if err != nil {
		return "", err
	}
	defer lock.release()
	file := stateFile{filepath.Join(e.StateDir, "isolation.lease")}
	was, _, loadErr := file.load()
	if loadErr != nil && !errors.Is(loadErr, errDamaged) {
		return "", loadErr
	}
	found, err := removeCut(e)
	if e.Lift != nil {
		var stopped []StoppedProcess
		if was.Lease != nil {
			stopped = was.Lease.Stopped
		}
		err = errors.Join(err, e.Lift(stopped))
	}
	switch {
	case err != nil && (was.Lease != nil || loadErr != nil || found):
		return "", fmt.Errorf("ending the isolation: %w", err)
	case err != nil:
		e.Logger.Warn("no isolation is on record; the kernel cannot be looked at", "error", err)
	}
	if was.Lease == nil && loadErr == nil && !found {
		return "", nil
	}
	return rememberEnd(e, file, was, loadErr != nil)
}

// removeCut says whether there was a table. A namespace that is gone took its
// table with it, and a kernel that cannot make one has none.
func removeCut(e LocalEnd) (found bool, err error) {
	barrier, err := isolation.Open(e.NetNS)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, barrier.Close()) }()
	if found, err = barrier.Present(); err != nil {
		return false, err
	}
	if err = barrier.Remove(); errors.Is(err, isolation.ErrNoEgress) && !found {
		err = nil
	}
	return found, err
}

// rememberEnd is after the removal: what is interrupted between the two isolates
// again when the sensor starts.
func rememberEnd(e LocalEnd, file stateFile, was record, damaged bool) (string, error) {
	now := e.Clock.Now()
	end := &localEnd{Operation: recoveredOperation, EndedAt: now.UnixNano(), By: e.By, Reason: e.Reason}
	if lease := was.Lease; lease != nil {
		end.Operation, end.Nonce, end.AppliedAt = lease.Operation, lease.Nonce, lease.AppliedAt
	}
	if damaged {
		kept, err := file.setAside()
		e.Logger.Error("isolation state is damaged", "kept", kept, "keep_error", err)
		was = record{IgnoreIssuedBefore: now.UnixNano()}
	}
	was.Lease, was.LocalEnd = nil, end
	err := file.save(was)
	switch {
	case errors.Is(err, fs.ErrNotExist): // no state, so no sensor that could report it
	case err != nil:
		return "", fmt.Errorf("the cut is removed, but this cannot be recorded, so a sensor that starts isolates again: %w", err)
	}
	return end.Operation, nil
}

// stateLock is held by whoever may write the state file. A killed process lets go.
type stateLock struct{ dir *os.File }

// lockState locks the folder itself, so that nothing is left in it.
func lockState(dir string) (stateLock, error) {
	handle, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return stateLock{}, nil
	}
	if err != nil {
		return stateLock{}, fmt.Errorf("opening the state folder: %w", err)
	}
	if err := unix.Flock(int(handle.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: %s", ErrInUse, dir)
		}
		return stateLock{}, errors.Join(err, handle.Close())
	}
	return stateLock{handle}, nil
}

func (l stateLock) release() {
	if l.dir != nil {
		_ = l.dir.Close()
	}
}
