package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty opens a terminal of 120 by 40.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIP: needs pseudo-terminals: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	return master, slave
}

// screen is what a terminal was sent so far.
type screen struct {
	mu  sync.Mutex
	raw bytes.Buffer
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.String()
}

// onTerminal runs the program at a terminal of its own.
func onTerminal(t *testing.T, keys func(*screen, *os.File), args ...string) (text string, code int) {
	t.Helper()
	dir := t.TempDir()
	start(t, dir)
	master, slave := pty(t)
	cmd := exec.CommandContext(t.Context(), programPath(t), args...)
	cmd.Env = append(os.Environ(), "TEST_NOW=1", "TERM=xterm-256color", "VEDETTE_CONTEXT_FILE="+filepath.Join(dir, "admin.context.yaml"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	s := &screen{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf) // EIO once the program is gone
			s.mu.Lock()
			s.raw.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	keys(s, master)
	err := cmd.Wait()
	<-read
	if err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatalf("%v: %v\n%q", args, err, s)
	}
	return s.String(), cmd.ProcessState.ExitCode()
}

func (s *screen) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !strings.Contains(s.String(), want) {
		select {
		case <-deadline:
			t.Fatalf("the terminal never showed %q:\n%q", want, s)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Ensure the live screen shows what happens, leaves by q, and gives the terminal back.
func TestScreen(t *testing.T) {
	for _, key := range []string{"q", "\x03"} {
		text, code := onTerminal(t, func(s *screen, keys *os.File) {
			s.await(t, "VEDETTE")
			s.await(t, "A service started a shell")
			s.await(t, "broken into and moved on")
			if _, err := keys.WriteString(key); err != nil {
				t.Fatal(err)
			}
		}, "watch")
		if code != 0 {
			t.Errorf("by %q: exit code %d", key, code)
		}
		if !strings.Contains(text, "\x1b[?1049h") || !strings.Contains(text, "\x1b[?1049l") {
			t.Errorf("by %q: the alternate screen was not entered and left", key)
		}
		if strings.Contains(text, "\x1b]0;owned") || strings.Contains(text, "\u202e") {
			t.Errorf("by %q: a host name drives the terminal", key)
		}
	}
}

// Ensure colour is used on a terminal, and not when NO_COLOR says so.
func TestColour(t *testing.T) {
	for _, tt := range []struct {
		noColour string
		want     bool
	}{{"", true}, {"1", false}} {
		t.Setenv("NO_COLOR", tt.noColour)
		text, code := onTerminal(t, func(*screen, *os.File) {}, "host", "list")
		if code != 0 || strings.Contains(text, "\x1b[31m") != tt.want {
			t.Errorf("NO_COLOR=%q: exit code %d: %q", tt.noColour, code, text)
		}
	}
}
