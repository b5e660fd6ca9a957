package isolation

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machineVariable describes the guest to TestReboots; vmtest -reboots sets it.
const machineVariable = "VEDETTE_ISOLATION_MACHINE"

// machineRun is the guest from power-on to power-on, and the world that its wire leads to.
// The wire is a socket in the test's own folder: no frame comes to this machine's network.
type machineRun struct {
	Command []string `json:"command"`
	Console string   `json:"console"`

	console *os.File
	port    net.Listener
	wire    net.Listener
	world   *world
	cmd     *exec.Cmd
	line    net.Conn // the port's, of this run
	words   *bufio.Scanner
}

// wordMost is the longest that the guest may take for anything.
const wordMost = 5 * time.Minute

func newMachine(t *testing.T, text string) *machineRun {
	t.Helper()
	m := &machineRun{world: &world{}}
	if err := json.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "vedette-wire-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if m.console, err = os.Create(m.Console); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.console.Close() })
	for name, to := range map[string]*net.Listener{"port": &m.port, "wire": &m.wire} {
		if *to, err = net.Listen("unix", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*to).Close() })
	}
	m.Command = append(m.Command,
		"-serial", "stdio", "-chardev", "socket,id=port,path="+m.port.Addr().String(), "-serial", "chardev:port",
		"-netdev", "stream,id=wire,server=off,addr.type=unix,addr.path="+m.wire.Addr().String(),
		// No program of the adapter's own: there is nothing to be booted over the wire.
		"-device", "virtio-net-pci,netdev=wire,romfile=,mac="+bootHostMAC.String())
	return m
}

// start switches the power on.
func (m *machineRun) start(ctx context.Context, t *testing.T) {
	t.Helper()
	// The kernel ends the machine with the thread that started it, however the test ends.
	runtime.LockOSThread()
	m.cmd = exec.CommandContext(ctx, m.Command[0], m.Command[1:]...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := m.cmd
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, l := range []net.Listener{m.port, m.wire} {
		if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(wordMost)); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatalf("the machine does not start: %v", err)
		}
		if l == m.wire {
			if err := m.world.serve(conn.(*net.UnixConn)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		m.line, m.words = conn, bufio.NewScanner(conn)
		t.Cleanup(func() { _ = conn.Close() })
	}
}

// cutPower ends the machine as a power cut does. What the guest had not given to its disk is
// gone.
func (m *machineRun) cutPower(t *testing.T) {
	t.Helper()
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait() // by the signal
	_ = m.line.Close()
	m.world.serving.Wait() // what is on the wire is counted
}

func (m *machineRun) say(t *testing.T, order word) {
	t.Helper()
	if err := json.NewEncoder(m.line).Encode(order); err != nil {
		t.Fatalf("telling the host to %s: %v", order.Say, err)
	}
}

// tell returns the host's answer.
func (m *machineRun) tell(t *testing.T, order word, answer string) word {
	t.Helper()
	m.say(t, order)
	return m.await(t, answer)
}

func (m *machineRun) await(t *testing.T, say string) (heard word) {
	t.Helper()
	if err := m.line.SetReadDeadline(time.Now().Add(wordMost)); err != nil {
		t.Fatal(err)
	}
	for m.words.Scan() {
		line := strings.TrimSpace(m.words.Text())
		if !strings.HasPrefix(line, "{") { // the emulator's own programs say on each port that they begin
			continue
		}
		if err := json.Unmarshal([]byte(line), &heard); err != nil {
			t.Fatalf("waiting for %q: %v: %q", say, err, line)
		}
		if heard.Say != say {
			t.Fatalf("the host says %q (%s), want %q", heard.Say, heard.Error, say)
		}
		return heard
	}
	t.Fatalf("waiting for %q: the host is gone (%v)", say, m.words.Err())
	return word{}
}
