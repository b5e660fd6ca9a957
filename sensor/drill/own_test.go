package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/drill"
)

// Ensure nothing is written by a link out of a drill's own folders, whatever part of the path it is.
func TestOwn(t *testing.T) {
	private, outside := t.TempDir(), t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := errors.Join(os.WriteFile(precious, []byte("precious"), 0o600),
		os.Symlink(precious, private+"/file"), os.Symlink(outside, private+"/folder"), os.Symlink(outside+"/new", private+"/dangling"),
		os.Mkdir(private+"/real", 0o700), os.Symlink("real", private+"/inside"), unix.Mkfifo(private+"/pipe", 0o600)); err != nil {
		t.Fatal(err)
	}
	s := &stage{Drill: drill.Drill{Private: private}, ctx: t.Context(), dir: filepath.Join(t.TempDir(), "0badc0de")}
	for _, path := range []string{"/file", "/folder/precious", "/folder/new", "/folder/deep/er", "/dangling", "/pipe", "/../x"} {
		for name, do := range map[string]func(*stage) error{
			"adds": adds(private+path, "x"), "cuts": cuts(private + path), "types": types(private+path, "x"),
			"links": func(s *stage) error { return s.link("/dev/null", private+path+"/x") },
			"inert": func(s *stage) error { return s.inert(private + path) },
		} {
			if err := do(s); !errors.Is(err, errSkip) {
				t.Errorf("%s %s: got %v, want a skip", name, path, err)
			}
		}
	}
	if raw, err := os.ReadFile(precious); err != nil || string(raw) != "precious" {
		t.Errorf("what is not the drill's is now %q (%v)", raw, err)
	}
	if there, err := os.ReadDir(outside); err != nil || len(there) != 1 {
		t.Errorf("beside it there is now %v (%v)", there, err)
	}
	if err := s.write(private+"/inside/new/file", "x"); err != nil {
		t.Errorf("by a link that stays inside: %v", err)
	}
	if _, err := openNoLinks(private+"/inside/new/file", 0); !errors.Is(err, unix.ELOOP) {
		t.Errorf("opening by a link: got %v, want %v", err, unix.ELOOP)
	}
}

// envHostile has this program do drills on a host whose files lead elsewhere.
const (
	envHostile = "VEDETTE_DRILL_TEST_HOSTILE"
	envOutside = "VEDETTE_DRILL_TEST_OUTSIDE"
)

// linked are files and folders that a drill writes or changes, as links.
var linked = []string{
	"/root/.bash_history", "/root/.bashrc", "/root/.ssh/", "/root/.aws/", "/root/.mozilla/", "/root/vault.kdbx", "/var/log/auth.log",
	"/etc/motd", "/etc/hosts", "/etc/shadow", "/etc/cron.d/", "/etc/systemd/", "/etc/ld.so.preload", "/etc/profile.d/", "/etc/udev/",
	"/etc/apt/", "/etc/rc.local", "/etc/xdg/", "/etc/modules-load.d/", "/etc/pam.d/", "/etc/sudoers.d/", "/etc/audit/", "/etc/vedette-drill.conf",
	"/usr/local/bin/", "/usr/local/share/", "/var/www/html/", "/var/spool/cron/", "/var/spool/at/", "/var/backups/old/",
}

func hostile(outside string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	keep := map[string][]byte{}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		keep[name], _ = os.ReadFile(name)
	}
	for _, dir := range []string{"/root", "/var/log", "/etc", "/usr/local", "/var/www", "/var/spool", "/var/backups"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := unix.Mount("hostile", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
	}
	for name, raw := range keep {
		if err := os.WriteFile(name, raw, 0o644); err != nil {
			return err
		}
	}
	for i, path := range linked {
		to := filepath.Join(outside, fmt.Sprint(i))
		at := strings.TrimSuffix(path, "/")
		if _, err := os.Stat(filepath.Dir(at)); err != nil {
			continue
		}
		err := errors.Join(os.Chmod(outside, 0o755), os.Symlink(to, at))
		if at != path {
			err = errors.Join(err, os.Mkdir(to, 0o777), os.Chmod(to, 0o777))
			to += "/precious"
		}
		if err = errors.Join(err, os.WriteFile(to, []byte("root:precious:1\n"), 0o600)); err != nil {
			return err
		}
	}
	before := look(drill.Drill{Paths: outside})
	var chosen []drill.Drill
	for _, d := range drill.All() {
		if d.Private != "" {
			chosen = append(chosen, d)
		}
	}
	// A scope of its own keeps the drills in this mount namespace, systemd or not.
	run, err := Run(context.Background(), Config{Base: os.Getenv(envHostile), ScopeKind: "netns", ScopePath: "/proc/self/ns/net", Drills: chosen, LookUp: 1})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range run.Drills {
		if !d.Clean {
			errs = append(errs, fmt.Errorf("%s left %q", d.ID, d.Left))
		}
		if d.State != drill.StateSkipped {
			fmt.Printf("%s is %s %s\n", d.ID, d.State, d.Why)
		}
	}
	if changed := before.differs(look(drill.Drill{Paths: outside})); len(changed) > 0 {
		errs = append(errs, fmt.Errorf("what links lead to is not as it was: %q", changed))
	}
	return errors.Join(errs...)
}

// Ensure no drill changes what a host's links lead to.
func TestHostile(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	for dir := outside; dir != "/"; dir = filepath.Dir(dir) { // a service's account may pass
		if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&0o011 != 0o011 {
			_ = os.Chmod(dir, st.Mode()|0o711)
		}
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envHostile+"="+base(t), envOutside+"="+outside)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
