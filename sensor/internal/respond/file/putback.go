package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// PutBack restores the file at its place: content, mode, owner, extended
// attributes, times and flags. Nothing that is there now is overwritten.
func (s *Store) PutBack(id string, e Entry) error {
	p, err := s.locate(e.Path)
	if err != nil {
		return fmt.Errorf("the folder of %q is gone or changed (%w): make it anew and release again; the content is in %s", e.Path, err, s.content(id))
	}
	defer p.close()
	if aside(id, p, e) {
		if err := unix.Renameat2(p.dir, asideName(id), p.dir, p.base, unix.RENAME_NOREPLACE); err != nil {
			return fmt.Errorf("putting %q back: %w", e.Path, err)
		}
	}
	f, err := os.OpenFile(s.content(id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	var at unix.Stat_t
	there := unix.Fstatat(p.dir, p.base, &at, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if there != nil {
			return fmt.Errorf("%q: %w", e.Path, ErrLost)
		}
		// Never taken, or put back by an attempt that was interrupted after.
		return s.settle(p, e, at)
	case err != nil:
		return fmt.Errorf("opening it in the store: %w", err)
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if there == nil {
		if e.same(&at) && !e.same(&st) {
			// Copied, but never taken away.
			return os.Remove(s.content(id))
		}
		return fmt.Errorf("%q: %w", e.Path, ErrOccupied)
	}
	if e.same(&st) {
		return s.moveBack(id, p, f, e)
	}
	return s.copyBack(id, p, f, e)
}

// settle gives the file that is at its place what is still missing.
func (s *Store) settle(p place, e Entry, at unix.Stat_t) error {
	if !e.same(&at) {
		return nil // a copy is whole before it has its name
	}
	h, err := p.hold()
	if err != nil {
		return err
	}
	defer h.close()
	return dress(int(h.file.Fd()), e)
}

// dress is idempotent, and flags come last: what is immutable takes nothing more.
func dress(fd int, e Entry) error {
	err := errors.Join(unix.Fchmod(fd, e.Mode), times(fd, e))
	if err == nil && e.Flags&immutable != 0 {
		err = setFlags(fd, e.Flags)
	}
	if err != nil {
		return fmt.Errorf("restoring mode, times and flags of %q: %w", e.Path, err)
	}
	return nil
}

func times(fd int, e Entry) error {
	stamps := []unix.Timespec{nanos(e.Atime), nanos(e.Mtime)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, byDescriptor(fd), stamps, 0)
}

func (s *Store) moveBack(id string, p place, f *os.File, e Entry) error {
	store, err := unix.Open(s.cfg.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	defer func() { _ = unix.Close(store) }()
	if err := unix.Renameat2(store, id, p.dir, p.base, unix.RENAME_NOREPLACE); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = ErrOccupied
		}
		return fmt.Errorf("putting %q back: %w", e.Path, err)
	}
	return dress(int(f.Fd()), e)
}

// copyBack makes a nameless file, completes it, and gives it its name in one step.
func (s *Store) copyBack(id string, p place, from *os.File, e Entry) error {
	fd, err := unix.Openat(p.dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	named := ""
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		named = ".vedette-restore-" + id
		_ = unix.Unlinkat(p.dir, named, 0)
		fd, err = unix.Openat(p.dir, named, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return fmt.Errorf("putting %q back: %w", e.Path, err)
	}
	to := os.NewFile(uintptr(fd), p.base)
	defer func() { _ = to.Close() }()
	err = transfer(to, from, e)
	if err == nil {
		err = unix.Fchown(fd, int(e.UID), int(e.GID))
	}
	for name, value := range e.Xattrs {
		if err == nil {
			err = unix.Fsetxattr(fd, name, value, 0)
		}
	}
	// Owner before mode: the first clears set-user-ID.
	if err == nil {
		err = errors.Join(unix.Fchmod(fd, e.Mode), times(fd, e), to.Sync())
	}
	if err == nil && named == "" {
		err = unix.Linkat(unix.AT_FDCWD, byDescriptor(fd), p.dir, p.base, unix.AT_SYMLINK_FOLLOW)
	} else if err == nil {
		err = unix.Renameat2(p.dir, named, p.dir, p.base, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, unix.EEXIST) {
		err = ErrOccupied
	}
	if err != nil {
		if named != "" {
			_ = unix.Unlinkat(p.dir, named, 0)
		}
		return fmt.Errorf("putting %q back: %w", e.Path, err)
	}
	if e.Flags&immutable != 0 {
		if err := setFlags(fd, e.Flags); err != nil {
			return err
		}
	}
	return os.Remove(s.content(id))
}
