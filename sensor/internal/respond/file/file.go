// Package file takes one file out of its place and puts it back as it was.
//
// A path is what an attacker can change while it is looked at. So each is opened
// component by component without following a symbolic link (openat2), the file is
// held by descriptor from then on, and what was moved is compared with what was
// held: another file that was put there meanwhile is put back.
//
// On the file system of the store the very inode is moved, so that nothing of it
// but its mode can change; from another one it is copied, proved by its hash and
// unlinked. Either way it lies with mode 0000 in a folder of mode 0700, beside a
// description from which it can be put back without any other record.
//
// Never taken: what a package owns, what the host does not start without, and the
// sensor's own.
package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrRefused: the file must stay.
	ErrRefused = errors.New("refused")
	// ErrSwapped: somebody changes the path while it is worked on.
	ErrSwapped = errors.New("another file was put at the path meanwhile")
	// ErrLost: there is nothing to put back.
	ErrLost = errors.New("neither the store nor its place has the file any more: somebody else removed it")
	// ErrOccupied: the way back would overwrite.
	ErrOccupied = errors.New("a new file is at the path: move it away and release again")
)

// MaxBytes is the largest file that is taken.
const MaxBytes = 1 << 30

// maxXattrs bounds the extended attributes of one file, all together.
const maxXattrs = 256 << 10

// Config is what a Store needs.
type Config struct {
	// Dir is the store's folder, made when it is needed.
	Dir string
	// Root is the host's file system, default "/".
	Root string
	// Own are files and folders that are never taken nor anything below them.
	Own []string
	// Proc, default /proc.
	Proc string
}

// Store holds files that were taken.
type Store struct{ cfg Config }

// Open changes nothing.
func Open(cfg Config) *Store {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	return &Store{cfg}
}

// Entry is a file as it was.
type Entry struct {
	Path   []byte            `json:"path"`
	Dev    uint64            `json:"dev"`
	Ino    uint64            `json:"ino"`
	Mode   uint32            `json:"mode"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Links  uint64            `json:"links"`
	Atime  int64             `json:"atime"` // Unix ns
	Mtime  int64             `json:"mtime"` // Unix ns
	Flags  uint32            `json:"flags"` // of the inode: immutable, append only
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	SHA256 []byte            `json:"sha256"`
}

func (e Entry) same(st *unix.Stat_t) bool { return st.Dev == e.Dev && st.Ino == e.Ino }

// place is where a file is: a folder that is held, and a name in it.
type place struct {
	dir  int
	base string
}

func (p place) close() { _ = unix.Close(p.dir) }

// locate opens the folder of a path, following no symbolic link on the way.
func (s *Store) locate(name []byte) (place, error) {
	text := string(name)
	switch {
	case len(text) == 0 || text[0] != '/' || len(text) >= unix.PathMax || bytes.IndexByte(name, 0) >= 0 || path.Clean(text) != text || text == "/":
		return place{}, fmt.Errorf("%w: %q is not the absolute path of a file", ErrRefused, text)
	}
	root, err := unix.Open(s.cfg.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return place{}, fmt.Errorf("opening %s: %w", s.cfg.Root, err)
	}
	defer func() { _ = unix.Close(root) }()
	below := strings.TrimPrefix(path.Dir(text), "/")
	if below == "" {
		below = "."
	}
	dir, err := unix.Openat2(root, below, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH,
	})
	switch {
	case errors.Is(err, unix.ELOOP):
		return place{}, fmt.Errorf("%w: a folder of %q is a symbolic link: name the file by the path that it leads to", ErrRefused, text)
	case err != nil:
		return place{}, fmt.Errorf("opening the folder of %q: %w", text, err)
	}
	return place{dir, path.Base(text)}, nil
}

// held is one file by descriptor, opened for nothing (O_PATH) and for reading.
type held struct {
	path int
	file *os.File
	st   unix.Stat_t
}

func (h *held) close() {
	_ = unix.Close(h.path)
	if h.file != nil {
		_ = h.file.Close()
	}
}

func byDescriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// hold opens a regular file for reading: looked at before it is opened, because
// to open a device or a pipe does something.
func (p place) hold() (*held, error) {
	fd, err := unix.Openat(p.dir, p.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", p.base, err)
	}
	h := &held{path: fd}
	if err := unix.Fstat(fd, &h.st); err != nil {
		h.close()
		return nil, fmt.Errorf("looking at %q: %w", p.base, err)
	}
	if kind := h.st.Mode & unix.S_IFMT; kind != unix.S_IFREG {
		h.close()
		return nil, fmt.Errorf("%w: %q is %s, and only a regular file is taken", ErrRefused, p.base, kinds[kind])
	}
	if h.st.Size > MaxBytes {
		h.close()
		return nil, fmt.Errorf("%w: %q has %d bytes, more than %d", ErrRefused, p.base, h.st.Size, MaxBytes)
	}
	opened, err := unix.Open(byDescriptor(fd), unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) {
		opened, err = unix.Open(byDescriptor(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		h.close()
		return nil, fmt.Errorf("reading %q: %w", p.base, err)
	}
	h.file = os.NewFile(uintptr(opened), p.base)
	return h, nil
}

var kinds = map[uint32]string{
	unix.S_IFDIR: "a folder", unix.S_IFLNK: "a symbolic link", unix.S_IFCHR: "a device", unix.S_IFBLK: "a device",
	unix.S_IFIFO: "a pipe", unix.S_IFSOCK: "a socket",
}

// immutable is what keeps even root from moving a file: FS_IMMUTABLE_FL and
// FS_APPEND_FL of ioctl_iflags(2).
const immutable = 0x10 | 0x20

func (h *held) flags() uint32 {
	flags, err := unix.IoctlGetUint32(int(h.file.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return 0 // a file system without
	}
	return flags
}

func setFlags(fd int, flags uint32) error {
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags)); err != nil {
		return fmt.Errorf("changing the inode's flags (needs CAP_LINUX_IMMUTABLE): %w", err)
	}
	return nil
}

// describe reads all that the undo needs.
func (h *held) describe(name []byte) (Entry, error) {
	st := &h.st
	e := Entry{
		Path: name, Dev: st.Dev, Ino: st.Ino, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Size: st.Size,
		Links: uint64(st.Nlink), Atime: st.Atim.Nano(), Mtime: st.Mtim.Nano(), Flags: h.flags(), //nolint:unconvert // its width differs between architectures
	}
	var err error
	if e.Xattrs, err = xattrs(int(h.file.Fd())); err != nil {
		return e, err
	}
	e.SHA256, err = hash(h.file)
	return e, err
}

func hash(f *os.File) ([]byte, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, MaxBytes+1)); err != nil {
		return nil, fmt.Errorf("hashing: %w", err)
	}
	return sum.Sum(nil), nil
}

func xattrs(fd int) (map[string][]byte, error) {
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading extended attributes: %w", err)
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(fd, names); err != nil {
		return nil, fmt.Errorf("reading extended attributes: %w", err)
	}
	all, total := map[string][]byte{}, 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading extended attribute %s: %w", name, err)
		}
		if total += n; total > maxXattrs {
			return nil, fmt.Errorf("%w: more than %d bytes of extended attributes", ErrRefused, maxXattrs)
		}
		all[name] = bytes.Clone(value[:n])
	}
	return all, nil
}

// Check says what would be taken, or why it must stay, and does nothing.
func (s *Store) Check(name []byte) (string, error) {
	p, err := s.locate(name)
	if err != nil {
		return "", err
	}
	defer p.close()
	h, err := p.hold()
	if err != nil {
		return "", err
	}
	defer h.close()
	if err := s.mayTake(string(name), p, h); err != nil {
		return "", err
	}
	sum, err := hash(h.file)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("take %q away: %d bytes, SHA-256 %s, mode %04o, owner %d:%d",
		name, h.st.Size, hex.EncodeToString(sum), h.st.Mode&0o7777, h.st.Uid, h.st.Gid)
	if h.st.Nlink > 1 {
		text += fmt.Sprintf("; the file has %d other names (hard links), which are not found or taken; "+
			"on the store's file system they cannot be opened or run either meanwhile, on another they can", h.st.Nlink-1)
	}
	if running := s.running(&h.st); len(running) > 0 {
		text += fmt.Sprintf("; %d processes run from it and go on: %s", len(running), strings.Join(running, ", "))
	}
	return text + "; who has it open keeps it open", nil
}

// running are the PIDs whose program it is, at most twenty.
func (s *Store) running(st *unix.Stat_t) []string {
	names, _ := filepath.Glob(filepath.Join(s.cfg.Proc, "[0-9]*"))
	var pids []string
	for _, name := range names {
		var exe unix.Stat_t
		if unix.Stat(filepath.Join(name, "exe"), &exe) == nil && exe.Dev == st.Dev && exe.Ino == st.Ino {
			if pids = append(pids, filepath.Base(name)); len(pids) == 20 {
				break
			}
		}
	}
	return pids
}
