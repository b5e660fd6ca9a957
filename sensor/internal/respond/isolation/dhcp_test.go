package isolation

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

const (
	// dhcpVariable makes this program the script of a DHCP client, which is called with
	// what happened to the lease; its value is the file that it notes it in.
	dhcpVariable = "VEDETTE_TEST_DHCP"
	// dhcpHourVariable holds how long TestDHCP goes on with leases of 60 s, as in 1h.
	dhcpHourVariable = "VEDETTE_ISOLATION_DHCP"
	// shortestLease is what the client takes for a shorter one.
	shortestLease = 16 * time.Second
)

// dhcpScript does what a distribution's script does with a lease: it sets the address.
func dhcpScript(journal string) error {
	what := os.Args[1]
	if what == "bound" {
		link, err := vnl.LinkByName(os.Getenv("interface"))
		if err != nil {
			return err
		}
		address := &vnl.Addr{IPNet: &net.IPNet{IP: net.ParseIP(os.Getenv("ip")), Mask: net.CIDRMask(24, 32)}}
		if err := vnl.AddrReplace(link, address); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, what)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Ensure that an isolated host keeps the address that a DHCP server gave it.
func TestDHCP(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIP: needs busybox with udhcpc and udhcpd (apt-get install busybox)")
	}
	if list, err := exec.Command(busybox, "--list").Output(); err != nil || !bytes.Contains(list, []byte("udhcpc\n")) || !bytes.Contains(list, []byte("udhcpd\n")) {
		t.Skip("SKIP: needs a busybox that has udhcpc and udhcpd")
	}
	t.Parallel() // it mostly waits
	lease, renewals := shortestLease, 2
	if text := os.Getenv(dhcpHourVariable); text != "" {
		whole, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s: %v", dhcpHourVariable, err)
		}
		lease = time.Minute
		renewals = int(whole / (lease / 2))
	}
	host, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Wire(t, host, netnstest.HostDevice, peer, netnstest.PeerDevice)
	peer.Address(t, netnstest.PeerDevice, netnstest.PeerIP4+"/24")
	barrier := openBarrier(t, host)
	dir := t.TempDir()
	config := fmt.Sprintf("interface %s\nstart 10.77.0.50\nend 10.77.0.60\nlease_file %s/leases\npidfile %s/pid\nmin_lease 1\nopt lease %d\nopt subnet 255.255.255.0\n",
		netnstest.PeerDevice, dir, dir, int(lease.Seconds()))
	configFile, journal := filepath.Join(dir, "udhcpd.conf"), filepath.Join(dir, "journal")
	for _, file := range []struct{ name, text string }{{configFile, config}, {filepath.Join(dir, "leases"), ""}, {journal, ""}} {
		if err := os.WriteFile(file.name, []byte(file.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, peer, nil, busybox, "udhcpd", "-f", configFile)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run(t, host, []string{dhcpVariable + "=" + journal}, busybox, "udhcpc", "-f", "-i", netnstest.HostDevice, "-s", exe, "-t", "5", "-T", "1")

	await := func(want string, count int, within time.Duration) {
		t.Helper()
		deadline := time.Now().Add(slow.Deadline(within))
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			text, err := os.ReadFile(journal)
			if err != nil {
				t.Fatal(err)
			}
			events := strings.Fields(string(text))
			got := 0
			for i, event := range events {
				if event == want {
					got++
				}
				// Once bound, the lease is not given up.
				if got > 0 && i > 0 && event == "deconfig" && strings.Contains(strings.Join(events[:i], " "), "bound") {
					t.Fatalf("the client lost its lease: %v", events)
				}
			}
			if got >= count {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d times %q within %v: %v", got, count, want, within, events)
			}
			<-tick.C
		}
	}
	await("bound", 1, 10*time.Second)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	capture := netnstest.NewCapture(t, peer, netnstest.PeerDevice)
	began := time.Now()
	await("renew", renewals, time.Duration(renewals+1)*lease)
	if _, err := barrier.Probe(); err != nil {
		t.Errorf("the isolation ended meanwhile: %v", err)
	}
	broadcasts, unicasts := 0, 0
	for _, frame := range capture.Frames(t) {
		if len(frame) < 38 || frame[12] != 8 || frame[23] != unix.IPPROTO_UDP || !bytes.Equal(frame[34:38], []byte{0, 68, 0, 67}) {
			continue
		}
		if bytes.Equal(frame[30:34], []byte{255, 255, 255, 255}) {
			broadcasts++
		} else {
			unicasts++
		}
	}
	t.Logf("leases of %v, isolated for %v: renewed %d times; %d requests arrived by broadcast, %d to the server alone",
		lease, time.Since(began).Round(time.Second), renewals, broadcasts, unicasts)
	if broadcasts == 0 || unicasts > 0 {
		t.Error("want requests by broadcast alone")
	}
}

// run starts a program inside the namespace that ends with the test.
func run(t *testing.T, n *netnstest.Namespace, env []string, name string, arguments ...string) {
	t.Helper()
	cmd := exec.Command(name, arguments...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	n.Must(t, "starting "+name, cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s %s said:\n%s", name, strings.Join(arguments, " "), out.String())
		}
	})
}
