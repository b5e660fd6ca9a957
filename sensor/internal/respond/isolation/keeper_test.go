package isolation

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// keeperVariable makes this program a keeper: a process that isolates the namespace
// at descriptor 3 and keeps it isolated, as the sensor's responder does, until it is
// killed. Its value is the Spec.
const keeperVariable = "VEDETTE_TEST_KEEPER"

// unownedVariable makes a keeper one on a kernel whose tables cannot be owned.
const unownedVariable = "VEDETTE_TEST_KEEPER_UNOWNED"

func TestMain(m *testing.M) {
	for variable, role := range map[string]func(string) error{keeperVariable: keep, cyclesVariable: cycle, dhcpVariable: dhcpScript, senderVariable: sendXDP, hostVariable: bootHost} {
		if text := os.Getenv(variable); text != "" {
			if err := role(text); err != nil {
				fmt.Fprintln(os.Stderr, variable, err)
				os.Exit(1)
			}
			return
		}
	}
	goleak.VerifyTestMain(m)
}

// kept is what a keeper says of each look: one line of JSON.
type kept struct {
	Drift Drift  `json:"drift"`
	Error string `json:"error,omitempty"`
}

func keep(text string) error {
	var spec Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	barrier, err := Open("/proc/self/fd/3")
	if err != nil {
		return err
	}
	barrier.unowned = os.Getenv(unownedVariable) != ""
	if err := barrier.Apply(spec); err != nil {
		return err
	}
	say := json.NewEncoder(os.Stdout)
	if err := say.Encode(kept{}); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	broken := make(chan error, 1)
	go func() { broken <- barrier.Watch(context.Background(), wake) }()
	tick := time.NewTicker(500 * time.Millisecond) // respond.Config.Tick
	for {
		select {
		case err := <-broken:
			return err
		case <-changed:
		case <-tick.C:
		}
		drift, err := barrier.Reconcile(spec)
		if err == nil && drift == Unchanged {
			continue
		}
		k := kept{Drift: drift}
		if err != nil {
			k.Error = err.Error()
		}
		if err := say.Encode(k); err != nil {
			return nil // nobody listens: the test is over
		}
	}
}

// keeper is a keeper's process as its test sees it.
type keeper struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	looks chan kept // closed when the process ends
	done  chan struct{}
}

// keeperProgram holds the path of a program that is a keeper with both layers of an
// isolation, as the sensor has them; make isolation sets it. It speaks as this one does,
// has its state in the folder that keeperState names, and ends the isolation when its
// standard input ends.
const (
	keeperProgram = "VEDETTE_ISOLATION_KEEPER"
	keeperState   = "VEDETTE_TEST_KEEPER_STATE"
)

// bothLayers says whether startWhole's keepers are those of keeperProgram.
func bothLayers() bool { return os.Getenv(keeperProgram) != "" }

// startKeeper returns once the namespace is isolated by the table.
func startKeeper(t testing.TB, host *netnstest.Namespace, spec Spec) *keeper {
	t.Helper()
	return start(t, host, spec, "/proc/self/exe", "")
}

// startUnowned is startKeeper on a kernel whose tables cannot be owned.
func startUnowned(t testing.TB, host *netnstest.Namespace, spec Spec) *keeper {
	t.Helper()
	return start(t, host, spec, "/proc/self/exe", "", unownedVariable+"=1")
}

// startWhole is startKeeper with both layers where there is a program for it; state is the
// sensor's folder.
func startWhole(t testing.TB, host *netnstest.Namespace, spec Spec, state string) *keeper {
	t.Helper()
	if bothLayers() {
		return start(t, host, spec, os.Getenv(keeperProgram), state)
	}
	return startKeeper(t, host, spec)
}

func start(t testing.TB, host *netnstest.Namespace, spec Spec, program, state string, more ...string) *keeper {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(host.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	k := &keeper{cmd: exec.Command(program), looks: make(chan kept, 1024), done: make(chan struct{})}
	k.cmd.Env = append(os.Environ(), keeperVariable+"="+string(text), keeperState+"="+state)
	k.cmd.Env = append(k.cmd.Env, more...)
	k.cmd.Stderr = os.Stderr
	k.cmd.ExtraFiles = []*os.File{ns}
	out, err := k.cmd.StdoutPipe()
	if err == nil {
		k.input, err = k.cmd.StdinPipe()
	}
	if err == nil {
		err = k.cmd.Start()
	}
	if err != nil {
		t.Fatalf("starting a keeper: %v", err)
	}
	go func() {
		defer close(k.done)
		defer close(k.looks)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var look kept
			if json.Unmarshal(lines.Bytes(), &look) == nil {
				k.looks <- look
			}
		}
	}()
	t.Cleanup(func() { k.kill() })
	k.next(t)
	return k
}

// next waits for the keeper's next word.
func (k *keeper) next(t testing.TB) kept {
	t.Helper()
	select {
	case look, ok := <-k.looks:
		if !ok || look.Error != "" {
			t.Fatalf("the keeper ended or failed: %q", look.Error)
		}
		return look
	case <-time.After(slow.Deadline(10 * time.Second)):
		t.Fatal("the keeper says nothing")
	}
	return kept{}
}

// until waits for a kind of drift.
func (k *keeper) until(t testing.TB, drift Drift) {
	t.Helper()
	for k.next(t).Drift != drift {
		continue
	}
}

// release ends the isolation and the keeper, of those with both layers.
func (k *keeper) release(t testing.TB) {
	t.Helper()
	_ = k.input.Close()
	select {
	case <-k.done:
	case <-time.After(slow.Deadline(20 * time.Second)):
		t.Fatal("the keeper does not release")
	}
	if err := k.cmd.Wait(); err != nil {
		t.Fatalf("releasing: %v", err)
	}
}

// kill is SIGKILL, and waits until the process is gone.
func (k *keeper) kill() {
	_ = k.cmd.Process.Kill()
	<-k.done
	if err := k.cmd.Wait(); errors.Is(err, os.ErrProcessDone) {
		return
	}
}
