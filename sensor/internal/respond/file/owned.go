package file

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// essential are files that no package owns and without which a host does not
// start or nobody gets in.
var essential = []string{
	"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/fstab", "/etc/ld.so.cache",
	"/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/machine-id", "/etc/crypttab",
}

// essentialTrees are folders that are not for programs to be found in.
var essentialTrees = []string{
	"/boot", "/proc", "/sys", "/efi", "/lib/modules", "/usr/lib/modules",
	"/var/lib/dpkg", "/var/lib/rpm", "/usr/lib/sysimage",
}

// packaged is where packages put files. Below it a file without a package
// database that can be read stays.
var packaged = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu"}

// merged are the folders that are links into /usr where the two are one.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// maxList bounds what is read of one package's list.
const maxList = 64 << 20

func (s *Store) mayTake(name string, p place, h *held) error {
	for _, one := range essential {
		if name == one {
			return fmt.Errorf("%w: this host does not work without %s", ErrRefused, name)
		}
	}
	for _, tree := range essentialTrees {
		if below(name, tree) {
			return fmt.Errorf("%w: %s belongs to what this host starts from", ErrRefused, name)
		}
	}
	if below(name, "/dev") && !below(name, "/dev/shm") {
		return fmt.Errorf("%w: %s is among the devices", ErrRefused, name)
	}
	if own, err := s.isOwn(p, h); err != nil || own != "" {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: it belongs to the sensor (%s)", ErrRefused, own)
	}
	return s.unpackaged(name)
}

func below(name, tree string) bool { return name == tree || strings.HasPrefix(name, tree+"/") }

// isOwn compares inodes, so that no other name or mount of it gets past.
func (s *Store) isOwn(p place, h *held) (string, error) {
	type inode struct{ dev, ino uint64 }
	own := map[inode]string{}
	for _, name := range append([]string{"/proc/self/exe", "/proc/1/exe", s.cfg.Dir, filepath.Dir(s.cfg.Dir)}, s.cfg.Own...) {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err == nil {
			own[inode{st.Dev, st.Ino}] = name
		}
	}
	if name, bad := own[inode{h.st.Dev, h.st.Ino}]; bad {
		return name, nil
	}
	dir, err := unix.Openat(p.dir, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("looking at the folders above: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	const deepest = 256
	last := inode{}
	for range deepest {
		var st unix.Stat_t
		if err := unix.Fstat(dir, &st); err != nil {
			return "", fmt.Errorf("looking at the folders above: %w", err)
		}
		at := inode{st.Dev, st.Ino}
		if name, bad := own[at]; bad {
			return name, nil
		}
		if at == last {
			return "", nil // the root is its own parent
		}
		last = at
		up, err := unix.Openat(dir, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("looking at the folders above: %w", err)
		}
		_ = unix.Close(dir)
		dir = up
	}
	return "", fmt.Errorf("%w: it lies more than %d folders deep", ErrRefused, deepest)
}

// unpackaged is an error when a package owns the file or that cannot be told.
func (s *Store) unpackaged(name string) error {
	lists, err := filepath.Glob(filepath.Join(s.cfg.Root, "var/lib/dpkg/info/*.list"))
	if err != nil {
		return fmt.Errorf("looking at dpkg's lists: %w", err)
	}
	inPackaged := false
	for _, tree := range packaged {
		inPackaged = inPackaged || below(name, tree)
	}
	if len(lists) == 0 || s.rpm() {
		// rpm's database takes rpm to read it.
		if inPackaged {
			return fmt.Errorf("%w: whether a package owns %s cannot be told here (no dpkg lists, or an rpm database), and packages put files there", ErrRefused, name)
		}
		if len(lists) == 0 {
			return nil
		}
	}
	wanted := map[string]bool{}
	for _, alias := range aliases(name) {
		wanted[alias] = true
	}
	if err := s.diverted(wanted); err != nil {
		return err
	}
	for _, list := range lists {
		found, err := listed(list, wanted)
		if err != nil {
			return fmt.Errorf("looking whether a package owns %s: %w", name, err)
		}
		if found {
			return fmt.Errorf("%w: package %s owns %s: repair or remove the package instead", ErrRefused, strings.TrimSuffix(filepath.Base(list), ".list"), name)
		}
	}
	return nil
}

func (s *Store) rpm() bool {
	for _, name := range []string{"var/lib/rpm/rpmdb.sqlite", "var/lib/rpm/Packages", "var/lib/rpm/Packages.db", "usr/lib/sysimage/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/Packages.db"} {
		if info, err := os.Stat(filepath.Join(s.cfg.Root, name)); err == nil && info.Size() > 0 {
			return true
		}
	}
	return false
}

// aliases are the names by which a package may have installed a file: dpkg writes
// down what the package says, from before /bin was a link to /usr/bin or after.
func aliases(name string) []string {
	all := []string{name}
	for _, dir := range merged {
		if rest, ok := strings.CutPrefix(name, "/usr/"+dir+"/"); ok {
			all = append(all, "/"+dir+"/"+rest)
		}
		if rest, ok := strings.CutPrefix(name, "/"+dir+"/"); ok {
			all = append(all, "/usr/"+dir+"/"+rest)
		}
	}
	return all
}

// diverted adds the names from which dpkg diverted to a wanted one.
func (s *Store) diverted(wanted map[string]bool) error {
	f, err := os.Open(filepath.Join(s.cfg.Root, "var/lib/dpkg/diversions"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading dpkg's diversions: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, maxList))
	for {
		var triple [3]string // from, to, by
		for i := range triple {
			if !lines.Scan() {
				return lines.Err()
			}
			triple[i] = lines.Text()
		}
		if wanted[triple[1]] {
			wanted[triple[0]] = true
		}
	}
}

func listed(list string, wanted map[string]bool) (bool, error) {
	f, err := os.Open(list)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, maxList))
	for lines.Scan() {
		if wanted[lines.Text()] {
			return true, nil
		}
	}
	return false, lines.Err()
}
