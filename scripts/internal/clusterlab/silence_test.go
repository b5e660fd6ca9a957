package clusterlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// watched is a cluster of three nodes with one real sensor.
type watched struct {
	*trio
	spec   lab.SensorSpec
	sensor *lab.Process
}

// told is a finding as the list shows it.
type told struct {
	ID     string `json:"id"`
	Host   string `json:"host"`
	Kind   string `json:"kind"`
	Title  string `json:"title"`
	Reason string `json:"reason"`

	Process struct {
		Image string `json:"image"`
	} `json:"process"`
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	labtest.NeedRoot(t)
	w := &watched{trio: newTrio(t, 3, "vsil")}
	w.spec = lab.SensorSpec{
		Name: "web1", Scope: "netns:" + w.ns.Path(), NS: w.ns,
		SummaryInterval: time.Second, Window: time.Second, KnownWindows: 2, LearnFor: time.Hour,
	}
	w.again()
	return w
}

// again starts the sensor and waits until it is online.
func (w *watched) again() {
	w.t.Helper()
	var err error
	if w.sensor, err = w.StartSensor(w.t.Context(), w.spec); err != nil {
		w.t.Fatal(err)
	}
	w.online(30 * time.Second)
}

func (w *watched) online(most time.Duration) { w.t.Helper(); w.state("online", most) }

func (w *watched) state(want string, most time.Duration) {
	w.t.Helper()
	w.until(most, "the host to be "+want, func(ctx context.Context) (bool, error) {
		hosts, err := w.Hosts(ctx)
		return hosts["web1"].State == want, err
	})
}

// at is the node that the sensor has its session with.
func (w *watched) at() string {
	w.t.Helper()
	var d struct {
		Node string `json:"node"`
	}
	if err := w.JSON(w.t.Context(), &d, "host", "show", "web1"); err != nil {
		w.t.Fatal(err)
	}
	return d.Node
}

func (w *watched) findings(ctx context.Context, kind string) (some []told, err error) {
	var all []told
	if err := w.JSON(ctx, &all, "finding", "list", "--host", "web1"); err != nil {
		return nil, err
	}
	for _, f := range all {
		if f.Kind == kind {
			some = append(some, f)
		}
	}
	return some, nil
}

// silent waits for the n-th silence, prints how long it took from began, and returns it.
func (w *watched) silent(n int, what string, began time.Time, most time.Duration) told {
	w.t.Helper()
	var got []told
	w.until(most, fmt.Sprintf("silence %d (%s)", n, what), func(ctx context.Context) (bool, error) {
		some, err := w.findings(ctx, "silent")
		got = some
		return len(some) >= n, err
	})
	took := time.Since(began).Seconds()
	labtest.Figure(w.t, "silence."+strings.ReplaceAll(what, " ", "_"), took, "s", "<= 15", took <= 15 || most > 15*time.Second, got[0].Title)
	if len(got) != n {
		w.t.Errorf("%s: %d silences are told, want %d: %+v", what, len(got), n, got)
	}
	w.t.Logf("%s: %s", got[0].ID, got[0].Reason)
	return got[0]
}

// returned waits for the n-th return and wants a text in its title.
func (w *watched) returned(n int, text string) {
	w.t.Helper()
	var got []told
	w.until(45*time.Second, fmt.Sprintf("return %d", n), func(ctx context.Context) (bool, error) {
		some, err := w.findings(ctx, "returned")
		got = some
		return len(some) >= n, err
	})
	w.t.Logf("%s: %s", got[0].ID, got[0].Reason)
	if len(got) != n || !strings.Contains(got[0].Title, text) {
		w.t.Errorf("return %d: %q, want %q", n, got[0].Title, text)
	}
}

// quiet wants no silence beyond n for a while.
func (w *watched) quiet(n int, while time.Duration) {
	w.t.Helper()
	for deadline := time.Now().Add(while); time.Now().Before(deadline); <-time.After(500 * time.Millisecond) {
		if some, err := w.findings(w.t.Context(), "silent"); err == nil && len(some) != n {
			w.t.Fatalf("%d silences are told, want %d: %+v", len(some), n, some)
		}
	}
}

// elsewhere waits until the sensor has a session with another node than the lost one.
func (w *watched) elsewhere(lost string) {
	w.t.Helper()
	w.until(20*time.Second, "the sensor to be at another node", func(ctx context.Context) (bool, error) {
		var d struct {
			Node  string `json:"node"`
			State string `json:"state"`
		}
		err := w.JSON(ctx, &d, "host", "show", "web1")
		return d.Node != lost && d.State == "online", err
	})
}

// cut drops what the sensor sends, to one node or (empty) to all; the nodes hear each other.
func (w *watched) cut(node string) {
	w.t.Helper()
	var ports []string
	to := ""
	for _, n := range w.Nodes {
		_, port, _ := strings.Cut(n.Listen, ":")
		ports = append(ports, port)
		if n.ID == node {
			to = "udp dport " + port
		}
	}
	w.nft(fmt.Sprintf("table inet vsil { chain in { type filter hook input priority 0; udp sport != { %s } %s drop; }; }", strings.Join(ports, ", "), to))
}

func (w *watched) heal() { w.t.Helper(); w.nft("") }

func (w *watched) nft(table string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("table inet vsil\ndelete table inet vsil\n" + table + "\n")
	if _, err := w.lab.Run(w.ns, cmd); err != nil {
		w.t.Fatal(err)
	}
}

// Ensure that a sensor which is killed, stopped, frozen or cut off is a finding within 15 s, once,
// whoever leads; that one which is told to stop, or loses its node, is none; and that a
// return says what it was.
func TestSilence(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: needs nft (nftables)")
	}
	w := newWatched(t)
	dir, _ := labtest.Cgroup(t)
	freeze := filepath.Join(dir, "cgroup.freeze")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(w.sensor.PID(), s); err != nil {
			t.Fatal(err)
		}
	}

	began := time.Now()
	w.sensor.Kill()
	f := w.silent(1, "SIGKILL", began, 15*time.Second)
	for _, text := range []string{"last heard at", "over node n", "no goodbye", "systemctl status vedette-sensor"} {
		if !strings.Contains(f.Reason, text) {
			t.Errorf("the reason does not say %q: %s", text, f.Reason)
		}
	}
	w.state("silent", time.Second)
	w.again()
	w.returned(1, "its sensor restarted")

	began = time.Now()
	signal(syscall.SIGSTOP)
	w.silent(2, "SIGSTOP", began, 15*time.Second)
	signal(syscall.SIGCONT)
	w.returned(2, "the same process")

	write(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(w.sensor.PID()))
	began = time.Now()
	write(freeze, "1")
	thaw := func() { write(freeze, "0") }
	t.Cleanup(thaw)
	w.silent(3, "freeze", began, 15*time.Second)
	thaw()
	w.returned(3, "the same process")

	w.cut("")
	began = time.Now()
	w.silent(4, "network cut", began, 15*time.Second)
	w.heal()
	w.returned(4, "the same process")

	// Only the way to its node is cut: it finds another one.
	lost := w.at()
	w.cut(lost)
	w.elsewhere(lost)
	w.quiet(4, 16*time.Second)
	w.heal()

	if err := w.sensor.Stop(); err != nil {
		t.Fatal(err)
	}
	w.state("stopped", 3*time.Second)
	w.quiet(4, 16*time.Second)
	w.again()

	lost = w.at()
	w.Members[lost].Kill()
	w.elsewhere(lost)
	w.quiet(4, 20*time.Second)
	w.start(lost)
	w.alive()

	// With the leader, not with the sensor's node: that would be the node's loss.
	for w.at() == w.leader() {
		if err := w.sensor.Stop(); err != nil {
			t.Fatal(err)
		}
		w.again()
	}
	began = time.Now()
	w.sensor.Kill()
	leader := w.leader()
	<-time.After(time.Until(began.Add(11 * time.Second)))
	w.Members[leader].Kill()
	w.silent(5, "SIGKILL, then the leader", began, 30*time.Second)
	w.quiet(5, 10*time.Second)
	w.start(leader)
	w.alive()
	w.again()
	w.returned(5, "its sensor restarted")
}
