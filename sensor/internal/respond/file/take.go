package file

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var idForm = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// description is the suffix of what lies beside a taken file.
const description = ".json"

func (s *Store) content(id string) string { return filepath.Join(s.cfg.Dir, id) }

// Take moves the file at name into the store under id. save is called with what
// the undo needs, before anything is done. Called again with the entry of an
// interrupted attempt it finishes that one.
func (s *Store) Take(id string, name []byte, begun *Entry, save func(Entry)) (Entry, error) {
	if !idForm.MatchString(id) {
		return Entry{}, fmt.Errorf("an id is 1 to 64 of a-z, A-Z, 0-9 and -, not %q", id)
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return Entry{}, fmt.Errorf("making the store: %w", err)
	}
	if begun != nil {
		if done, err := s.finish(id, *begun); done || err != nil {
			return *begun, err
		}
	}
	p, err := s.locate(name)
	if err != nil {
		return Entry{}, err
	}
	defer p.close()
	h, err := p.hold()
	if err != nil {
		return Entry{}, err
	}
	defer h.close()
	if err := s.mayTake(string(name), p, h); err != nil {
		return Entry{}, err
	}
	e, err := h.describe(name)
	if err != nil {
		return Entry{}, err
	}
	if err := s.describe(id, e); err != nil {
		return Entry{}, fmt.Errorf("writing the description of what is taken: %w", err)
	}
	save(e)
	if e.Flags&immutable != 0 {
		if err := setFlags(int(h.file.Fd()), e.Flags&^immutable); err != nil {
			return e, err
		}
	}
	store, err := unix.Open(s.cfg.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return e, fmt.Errorf("opening the store: %w", err)
	}
	defer func() { _ = unix.Close(store) }()
	err = unix.Renameat2(p.dir, p.base, store, id, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EXDEV):
		err = s.copyIn(id, p, h, e)
	case err != nil:
		err = fmt.Errorf("moving %q into the store: %w", name, err)
	default:
		err = s.moved(id, p, store, h, e)
	}
	if err != nil {
		return e, err
	}
	syncDir(s.cfg.Dir)
	return e, s.proveTaken(id, p, e)
}

// moved proves that what was moved is what was held.
func (s *Store) moved(id string, p place, store int, h *held, e Entry) error {
	var now unix.Stat_t
	err := unix.Fstatat(store, id, &now, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && !e.same(&now) {
		err = giveBack(id, store, id, p)
	}
	if err != nil {
		return err
	}
	// Even root runs no file that nobody may run; its other names are shut with it.
	if err := unix.Fchmod(int(h.file.Fd()), 0); err != nil {
		return fmt.Errorf("taking its permissions away: %w", err)
	}
	return nil
}

// giveBack puts another's file back that was moved by mistake. Where the name has
// a third file by now, it is laid beside it: nothing is lost.
func giveBack(id string, from int, name string, p place) error {
	err := unix.Renameat2(from, name, p.dir, p.base, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EEXIST) {
		return errors.Join(ErrSwapped, err)
	}
	beside := ".vedette-returned-" + id
	if err := unix.Renameat2(from, name, p.dir, beside, unix.RENAME_NOREPLACE); err != nil {
		return errors.Join(ErrSwapped, err)
	}
	return fmt.Errorf("%w, and a third after it: the second is %s in the same folder", ErrSwapped, beside)
}

// copyIn is for another file system: the copy is whole and on disk before the
// original goes.
func (s *Store) copyIn(id string, p place, h *held, e Entry) error {
	part := s.content(id) + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	to, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("copying into the store: %w", err)
	}
	defer func() { _ = to.Close() }()
	if err := transfer(to, h.file, e); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := errors.Join(to.Chmod(0), to.Sync()); err != nil {
		return errors.Join(fmt.Errorf("copying into the store: %w", err), os.Remove(part))
	}
	if err := os.Rename(part, s.content(id)); err != nil {
		return err
	}
	syncDir(s.cfg.Dir)
	return unlink(id, p, e)
}

// transfer copies and compares the hash: who wrote meanwhile is noticed.
func transfer(to, from *os.File, e Entry) error {
	if _, err := io.Copy(to, io.NewSectionReader(from, 0, MaxBytes)); err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	sum, err := hash(to)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, e.SHA256) {
		return errors.New("the file was written to while it was copied: try again, or freeze who writes it first")
	}
	return nil
}

// unlink takes the name of exactly that inode away: it is renamed first, looked
// at, and put back when somebody exchanged it.
func unlink(id string, p place, e Entry) error {
	aside := asideName(id)
	if err := unix.Renameat2(p.dir, p.base, p.dir, aside, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("taking %q away: %w", e.Path, err)
	}
	var now unix.Stat_t
	err := unix.Fstatat(p.dir, aside, &now, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && !e.same(&now) {
		return giveBack(id, p.dir, aside, p)
	}
	if err == nil {
		err = unix.Unlinkat(p.dir, aside, 0)
	}
	if err != nil {
		return fmt.Errorf("taking %q away: %w", e.Path, err)
	}
	_ = unix.Fsync(p.dir) // an O_PATH descriptor cannot; the unlink is not what a crash may not undo
	return nil
}

// asideName is a name that the file has for a moment, in its own folder.
func asideName(id string) string { return ".vedette-quarantine-" + id }

// aside says whether an interrupted unlink left the file under its other name.
func aside(id string, p place, e Entry) bool {
	var now unix.Stat_t
	return unix.Fstatat(p.dir, asideName(id), &now, unix.AT_SYMLINK_NOFOLLOW) == nil && e.same(&now)
}

// finish goes on after an interruption; false: nothing was done yet.
func (s *Store) finish(id string, e Entry) (bool, error) {
	_ = os.Remove(s.content(id) + ".part")
	f, err := os.OpenFile(s.content(id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	p, err := s.locate(e.Path)
	if err != nil {
		return true, nil //nolint:nilerr // its folder is gone, and the file with it
	}
	defer p.close()
	if !e.same(&st) && aside(id, p, e) {
		if err := unix.Unlinkat(p.dir, asideName(id), 0); err != nil {
			return false, fmt.Errorf("taking %q away: %w", e.Path, err)
		}
	} else if !e.same(&st) {
		var at unix.Stat_t
		if unix.Fstatat(p.dir, p.base, &at, unix.AT_SYMLINK_NOFOLLOW) == nil && e.same(&at) {
			if err := unlink(id, p, e); err != nil {
				return false, err
			}
		}
	}
	if err := f.Chmod(0); err != nil {
		return false, err
	}
	return true, s.proveTaken(id, p, e)
}

// proveTaken reads both places back.
func (s *Store) proveTaken(id string, p place, e Entry) error {
	var at unix.Stat_t
	if err := unix.Fstatat(p.dir, p.base, &at, unix.AT_SYMLINK_NOFOLLOW); err == nil && e.same(&at) {
		return fmt.Errorf("%q is still there", e.Path)
	}
	f, err := os.OpenFile(s.content(id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("reading it back from the store: %w", err)
	}
	defer func() { _ = f.Close() }()
	sum, err := hash(f)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm() != 0 {
		return fmt.Errorf("its mode in the store is %v, not 0000", info.Mode())
	}
	if !bytes.Equal(sum, e.SHA256) {
		// Who had it open may write on; the inode is the right one.
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) != nil || !e.same(&st) {
			return errors.New("the copy in the store is not what was taken")
		}
	}
	return nil
}

func (s *Store) describe(id string, e Entry) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	part := s.content(id) + description + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, s.content(id)+description)
}

func syncDir(dir string) {
	if f, err := os.Open(dir); err == nil {
		_ = f.Sync() // some file systems cannot
		_ = f.Close()
	}
}

// Held are the taken files by id, as their descriptions say: what is left when
// every other record is lost.
func (s *Store) Held() map[string]Entry {
	held := map[string]Entry{}
	names, _ := filepath.Glob(filepath.Join(s.cfg.Dir, "*"+description))
	for _, name := range names {
		id := strings.TrimSuffix(filepath.Base(name), description)
		if _, err := os.Lstat(s.content(id)); err != nil || !idForm.MatchString(id) {
			continue
		}
		raw, err := os.ReadFile(name)
		var e Entry
		if err == nil && json.Unmarshal(raw, &e) == nil && len(e.SHA256) == 32 {
			held[id] = e
		}
	}
	return held
}

// Forget removes the description of what was put back.
func (s *Store) Forget(id string) { _ = os.Remove(s.content(id) + description) }

// String is for a report.
func (e Entry) String() string {
	return fmt.Sprintf("%q is gone from its place and lies in the store with mode 0000, SHA-256 %s read back", e.Path, hex.EncodeToString(e.SHA256))
}

func nanos(ns int64) unix.Timespec { return unix.NsecToTimespec(time.Duration(ns).Nanoseconds()) }
