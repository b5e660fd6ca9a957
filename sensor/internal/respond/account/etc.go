package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxBytes bounds the account files; the largest known have some MiB.
	maxBytes = 64 << 20
	// lockWait is how long another editor is waited for; lckpwdf(3) waits 15 s.
	lockWait  = 5 * time.Second
	lockEvery = 50 * time.Millisecond
)

// etc is the folder of the account files, held so that nobody exchanges it.
type etc struct {
	dir  *os.File
	lock *os.File
}

func (a *Accounts) open() (etc, error) {
	root, err := unix.Open(a.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return etc{}, fmt.Errorf("opening %s: %w", a.root, err)
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := unix.Openat2(root, "etc", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err != nil {
		return etc{}, fmt.Errorf("opening etc in %s: %w", a.root, err)
	}
	return etc{dir: os.NewFile(uintptr(fd), "etc"), lock: nil}, nil
}

func (d *etc) close() {
	if d.lock != nil {
		_ = d.lock.Close()
	}
	_ = d.dir.Close()
}

// acquire takes the lock of lckpwdf(3), which passwd, usermod, chage and PAM take.
func (d *etc) acquire(ctx context.Context) error {
	fd, err := unix.Openat(int(d.dir.Fd()), ".pwd.lock", unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("opening /etc/.pwd.lock: %w", err)
	}
	d.lock = os.NewFile(uintptr(fd), ".pwd.lock")
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	again := time.NewTicker(lockEvery)
	defer again.Stop()
	for {
		// Of the open file, not of the process: POSIX locks of both kinds exclude
		// each other, and this one does not go when another descriptor is closed.
		err := unix.FcntlFlock(d.lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking /etc/.pwd.lock: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w for longer than %s", ErrBusy, lockWait)
		case <-again.C:
		}
	}
}

func (d etc) openFile(name string) (*os.File, error) {
	fd, err := unix.Openat(int(d.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: /etc/%s is a symbolic link; who manages this host must lock the account", ErrRefused, name)
	}
	if err != nil {
		return nil, fmt.Errorf("opening /etc/%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (d etc) read(name string) ([]byte, error) {
	f, err := d.openFile(name)
	if name == "shadow" && errors.Is(err, unix.ENOENT) {
		return nil, nil // hashes are in passwd
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading /etc/%s: %w", name, err)
	}
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("%w: /etc/%s has more than %d bytes", ErrRefused, name, maxBytes)
	}
	return raw, nil
}

// find is where the account's line begins and ends, without the line's end: the
// first one, which is the one that counts; -1 when there is none.
func find(raw []byte, account string) (begin, end int) {
	begin = 0
	for line := range bytes.Lines(raw) {
		end = begin + len(bytes.TrimSuffix(line, []byte("\n")))
		if bytes.HasPrefix(line, []byte(account+":")) {
			return begin, end
		}
		begin += len(line)
	}
	return -1, -1
}

func (d etc) line(name, account string) ([]byte, error) {
	raw, err := d.read(name)
	if err != nil {
		return nil, err
	}
	begin, end := find(raw, account)
	if begin < 0 {
		return nil, nil
	}
	return bytes.Clone(raw[begin:end]), nil
}

// edit replaces one line, and no other byte, of a file that is replaced as a whole.
func (d etc) edit(name, account string, change func([]byte) []byte) (err error) {
	old, err := d.openFile(name)
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }()
	raw, err := d.read(name)
	if err != nil {
		return err
	}
	begin, end := find(raw, account)
	if begin < 0 {
		return fmt.Errorf("/etc/%s has no line of %s", name, account)
	}
	line := change(raw[begin:end])
	if bytes.ContainsRune(line, '\n') {
		return errors.New("a line with an end in it")
	}
	if bytes.Equal(line, raw[begin:end]) {
		return nil
	}
	next := append(append(append([]byte{}, raw[:begin]...), line...), raw[end:]...)
	temp := name + ".vedette"
	_ = unix.Unlinkat(int(d.dir.Fd()), temp, 0) // of an attempt that was interrupted; the lock is ours
	fd, err := unix.Openat(int(d.dir.Fd()), temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("writing /etc/%s: %w", temp, err)
	}
	f := os.NewFile(uintptr(fd), temp)
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = unix.Unlinkat(int(d.dir.Fd()), temp, 0)
			err = fmt.Errorf("writing /etc/%s: %w", name, err)
		}
	}()
	if _, err = f.Write(next); err != nil {
		return err
	}
	if err = alike(old, f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = unix.Renameat(int(d.dir.Fd()), temp, int(d.dir.Fd()), name); err != nil {
		return err
	}
	_ = d.dir.Sync() // some file systems cannot; the file is in place
	return nil
}

// alike gives to what from has: owner, mode, extended attributes such as SELinux's label.
func alike(from, to *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	if err := errors.Join(unix.Fchown(int(to.Fd()), int(st.Uid), int(st.Gid)), unix.Fchmod(int(to.Fd()), st.Mode&0o7777)); err != nil {
		return err
	}
	names := make([]byte, 4096)
	n, err := unix.Flistxattr(int(from.Fd()), names)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 4096)
		n, err := unix.Fgetxattr(int(from.Fd()), name, value)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copying %s: %w", name, err)
		}
	}
	return nil
}
