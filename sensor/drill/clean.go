package drill

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// journalName is in a run's folder: one line for each thing that is about to be made on the
// host, on disk before it is made.
const journalName = "journal"

// entry is one thing to undo.
type entry struct {
	Mark string `json:"mark"`
	Undo string `json:"undo"` // remove, umount
	Path string `json:"path"`
}

// note writes down what is about to be made. Only what bears the run's nonce in its
// name, or is a mount over a process of its own, is ever undone.
func note(dir string, e entry) error {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the journal: %w", err)
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return nil
}

// journal reads what a run made; a torn last line was not acted on.
func journal(dir string) (all []entry, err error) {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			all = append(all, e)
		}
	}
	return all, nil
}

// undo ends a drill's processes and takes away what it made; an empty mark is every drill of the run.
func undo(dir, mark string) error {
	nonce := filepath.Base(dir)
	err := endProcesses(nonce, mark)
	all, read := journal(dir)
	errs := []error{err, read}
	for _, e := range slices.Backward(all) {
		if mark == "" || e.Mark == mark {
			errs = append(errs, e.reverse(nonce))
		}
	}
	return errors.Join(errs...)
}

// foreign says that a journal's entry is nothing that this run can have made.
var errForeign = errors.New("the journal names what no drill makes")

func (e entry) reverse(nonce string) error {
	clean := filepath.Clean(e.Path)
	switch {
	case e.Undo == "remove" && strings.Contains(filepath.Base(clean), nonce) && filepath.IsAbs(clean) && len(nonce) >= 8:
		if err := os.RemoveAll(clean); err != nil {
			return fmt.Errorf("removing %s: %w", clean, err)
		}
		return nil
	case e.Undo == "umount" && strings.HasPrefix(clean, "/proc/") && strings.Count(clean, "/") == 2:
		err := unix.Unmount(clean, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // it is not mounted, or its process is gone
			return fmt.Errorf("taking away the mount over %s: %w", clean, err)
		}
		return nil
	}
	return fmt.Errorf("%w: %s %s", errForeign, e.Undo, e.Path)
}

// endProcesses kills whatever has a drill's mark in its environment, which its children inherit.
func endProcesses(nonce, mark string) error {
	want := envMark + "=" + "vdrill-" + nonce + "."
	if mark != "" {
		want = envMark + "=" + mark + "\x00"
	}
	deadline := time.Now().Add(10 * time.Second)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		left := 0
		pids, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, proc := range pids {
			if hasMark(proc, want) {
				left++
				kill(proc, want)
			}
		}
		switch {
		case left == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("ending a drill's processes: %d still run", left)
		}
		time.Sleep(pause)
	}
}

func hasMark(proc, want string) bool {
	raw, err := os.ReadFile(proc + "/environ") // empty of a process that has ended
	return err == nil && strings.Contains("\x00"+string(raw), "\x00"+want) && proc != fmt.Sprintf("/proc/%d", os.Getpid())
}

// kill by a descriptor, so that it is the process that was looked at.
func kill(proc, want string) {
	pid, err := strconv.Atoi(filepath.Base(proc))
	if err != nil {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if hasMark(proc, want) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // the next look tells
	}
}

// Clean undoes what runs left that were killed, and says which.
func Clean(base string) (cleaned []string, err error) {
	if base == "" {
		base = DefaultBase
	}
	if _, err := os.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	unlock, err := lock(base)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return cleanAll(base)
}

// runMark is in a run's folder before anything else: a folder without it is left alone.
const runMark = ".vedette-drill-run"

func cleanAll(base string) (cleaned []string, err error) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, fmt.Errorf("looking for earlier runs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == 8 && strings.Trim(e.Name(), "0123456789abcdef") == "" {
			dir := filepath.Join(base, e.Name())
			if st, err := os.Lstat(filepath.Join(dir, runMark)); err != nil || !st.Mode().IsRegular() || ours(dir) != nil {
				_ = unix.Rmdir(dir) // ours if it is empty: a run that was killed before or after all else
				continue
			}
			if err := cleanRun(dir); err != nil {
				errs = append(errs, err)
				continue
			}
			cleaned = append(cleaned, e.Name())
		}
	}
	return cleaned, errors.Join(errs...)
}

// cleanRun undoes a run as a whole. Its folder goes last: it holds the journal.
func cleanRun(dir string) error {
	if dir == "" {
		return nil
	}
	if err := undo(dir, ""); err != nil {
		return err
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	// The mark goes after all else, or what is left is nobody's.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing a run's folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() != runMark {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("removing a run's folder: %w", err)
	}
	return nil
}

// unmountBelow makes sure that what is removed is the run's own and nothing that is mounted there.
func unmountBelow(dir string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("looking for mounts: %w", err)
	}
	for _, line := range slices.Backward(strings.Split(string(raw), "\n")) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("taking away the mount at %s: %w", fields[4], err)
			}
		}
	}
	return nil
}

// baseMark is in the base folder, and made with it: a folder without it is not ours. It is the lock.
const baseMark = ".vedette-drill"

// lock lets one run at a time have the base folder, which is made when it is not there. What
// is there and not ours is left as it is.
func lock(base string) (unlock func(), err error) {
	flags := os.O_RDWR | unix.O_NOFOLLOW
	switch err := os.Mkdir(base, 0o711); {
	case err == nil:
		if err := os.Chmod(base, 0o711); err != nil { // whatever the umask is
			return nil, fmt.Errorf("making the drills' folder: %w", err)
		}
		flags |= os.O_CREATE | os.O_EXCL
	case !errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("making the drills' folder: %w", err)
	default:
		if err := ours(base); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(filepath.Join(base, baseMark), flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no folder of drills, it has no file %s: name one with --dir that is not there yet, or remove this one if nothing in it is needed", base, baseMark)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(ErrBusy, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing gives it back
}

// ours says why nobody else can have put there what lies in a folder, or that they can.
func ours(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("looking at the drills' folder: %w", err)
	}
	raw, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.IsDir():
		return fmt.Errorf("%s is no folder (a link is none): name one with --dir that is not there yet", dir)
	case !ok || int(raw.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s belongs to somebody else or others may write in it: name a folder with --dir that is not there yet", dir)
	}
	return nil
}
