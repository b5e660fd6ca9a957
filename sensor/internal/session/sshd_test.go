package session

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/enrich"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
)

const sshPort = "2222"

// Ensure that a login by a real sshd with PAM is told with its user, its connection and
// its terminal, belongs to what it runs, and ends.
func TestRealLogin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root")
	}
	for _, need := range []string{"/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/etc/pam.d/sshd"} {
		if _, err := os.Stat(need); err != nil {
			t.Skipf("SKIP: needs %s", need)
		}
	}
	if _, err := os.Stat("/proc/self/loginuid"); err != nil {
		t.Skip("SKIP: needs a kernel with audit")
	}
	dir := t.TempDir()
	wtmp := filepath.Join(dir, "wtmp")
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("making a key: %v: %s", err, out)
		}
	}
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nUsePAM yes\nPermitRootLogin yes\nStrictModes no\nPidFile none\nPrintMotd no\n",
		sshPort, filepath.Join(dir, "host"), filepath.Join(dir, "user.pub"))
	for name, text := range map[string]string{"config": config, "wtmp": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	source, err := kernel.Open(kernel.Config{})
	if err != nil {
		t.Skipf("SKIP: needs a kernel that the programs run on: %v", err)
	}
	defer source.Close()
	enricher, err := enrich.New(enrich.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tr := New(Config{Wtmp: wtmp, Find: enricher.Living})
	type told struct {
		*event.Login
		evidence string
	}
	logins := make(chan told, 64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- tr.Run(ctx) }()
	go func() {
		done <- source.Run(ctx, func(ev event.Event) {
			o := enricher.Observe(ev)
			for _, l := range tr.Observe(ev, o) {
				logins <- told{l, tr.Evidence(enricher.Observe(l).Process)}
			}
		})
	}()
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "VEDETTE_TEST_WORLD="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		t.Fatalf("the world of sshd: %v: %s", err, output.String())
	}
	_, namespace, _ := strings.Cut(output.String(), "netns ")
	namespace, _, _ = strings.Cut(namespace, "\n")
	next := func(end bool) told {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case l := <-logins:
				if l.End == end && fmt.Sprint(l.NetNS) == namespace {
					return l
				}
			case <-deadline:
				t.Fatalf("no login (end %v) was told: %s", end, output.String())
			}
		}
	}
	login := next(false)
	if login.User != "root" || login.Via != "sshd" || login.LoginUID != 0 || login.Source.Addr() != netip.MustParseAddr("127.0.0.1") || login.Source.Port() == 0 {
		t.Errorf("login %+v", login.Login)
	}
	if !strings.HasPrefix(login.Terminal, "pts/") {
		t.Errorf("terminal %q; sshd wrote %d records", login.Terminal, len(tr.records))
	}
	if !strings.Contains(login.evidence, "root logged in through sshd from 127.0.0.1:") {
		t.Errorf("evidence %q", login.evidence)
	}
	if end := next(true); end.SessionID != login.SessionID || end.Terminal != login.Terminal {
		t.Errorf("end %+v, want that of %+v", end.Login, login.Login)
	}
}

// world is what the child does in namespaces of its own: sshd, and one login to it.
func world() int {
	dir := os.Getenv("VEDETTE_TEST_WORLD")
	fail := func(what string, err error) int {
		fmt.Println(what, err)
		return 1
	}
	var stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &stat); err != nil {
		return fail("netns", err)
	}
	fmt.Printf("netns %d\n", stat.Ino)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail("making mounts private", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fail("mounting /run", err)
	}
	if err := os.Mkdir("/run/sshd", 0o755); err != nil {
		return fail("making /run/sshd", err)
	}
	if err := unix.Mount(filepath.Join(dir, "wtmp"), "/var/log/wtmp", "", unix.MS_BIND, ""); err != nil {
		return fail("mounting wtmp", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fail("socket", err)
	}
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fail("lo", err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fail("lo", err)
	}
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "config"))
	sshd.Stdout, sshd.Stderr = os.Stdout, os.Stdout
	if err := sshd.Start(); err != nil {
		return fail("sshd", err)
	}
	defer func() {
		_ = sshd.Process.Signal(unix.SIGTERM)
		_ = sshd.Wait()
	}()
	for deadline := time.Now().Add(5 * time.Second); ; {
		conn, err := net.Dial("tcp", "127.0.0.1:"+sshPort)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			return fail("sshd does not listen", err)
		}
	}
	ssh := exec.Command("/usr/bin/ssh", "-tt", "-p", sshPort, "-i", filepath.Join(dir, "user"), "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-F", "none", "root@127.0.0.1", "sleep 0.3; cat /proc/self/sessionid")
	out, err := ssh.CombinedOutput()
	fmt.Printf("ssh: %s\n", out)
	if err != nil {
		return fail("ssh", err)
	}
	return 0
}
