package uplink

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockTimeout is far above what writing four small files takes: whoever holds the
// lock longer is stopped or sits on a dead disk.
const lockTimeout = 10 * time.Second

var (
	// ErrLocked: nothing can be said of the identity, nor written into it.
	ErrLocked   = errors.New("another vedette-sensor has been writing it for 10 s; is one stopped?")
	errReplaced = errors.New("this host was enrolled anew under another identity; restart the sensor to use it")
)

// locked runs f while no other process reads or writes the identity: enrolling anew
// beside a running sensor, whose look for a new certificate must see the old files
// or the new ones. The lock is on the folder, so it leaves no file of its own.
func locked(dir string, f func() error) error {
	handle, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer handle.Close()
	for deadline := time.Now().Add(lockTimeout); ; {
		err := unix.Flock(int(handle.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f()
		case errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline), errors.Is(err, unix.EINTR):
			<-time.After(10 * time.Millisecond)
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("locking %s: %w", dir, ErrLocked)
		default:
			return fmt.Errorf("locking %s: %w", dir, err)
		}
	}
}

// update runs f, which writes into the folder, unless the identity that lies there
// by now is another one: a sensor that still runs as the old one must not mix the two.
// One that is gone or cannot be read is nobody's: this sensor goes on with its own.
func (id *Identity) update(f func() error) error {
	return locked(id.dir, func() error {
		var now identityState
		data, err := os.ReadFile(filepath.Join(id.dir, identityFile))
		if err == nil && json.Unmarshal(data, &now) == nil && (now.HostID != id.HostID || now.Cluster != id.Cluster) {
			return errReplaced
		}
		return f()
	})
}
