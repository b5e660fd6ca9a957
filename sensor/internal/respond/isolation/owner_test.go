package isolation

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// needKernel skips before a version of Linux. From it on what it brought has to be found.
func needKernel(t *testing.T, major, minor int, what string, found bool) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var has [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &has[0], &has[1]); err != nil {
		t.Fatal(err)
	}
	switch older := slices.Compare(has[:], []int{major, minor}) < 0; {
	case older && !found:
		t.Skipf("SKIP: needs %s (Linux %d.%d)", what, major, minor)
	case !found:
		t.Fatalf("this kernel has %s, and it was not found", what)
	}
}

// needOwner skips where the kernel's tables have no owner.
func needOwner(t *testing.T, b *Barrier) {
	t.Helper()
	needKernel(t, 6, 9, "tables with an owner that stay when it goes", b.owning())
}

// Ensure nobody changes the table while its keeper lives, that it stands when the keeper is
// killed, and that nothing passes at any time.
func TestOwnedTable(t *testing.T) {
	host, peer := netnstest.Pair(t)
	looker := openBarrier(t, host)
	needOwner(t, looker)
	look := func() fingerprint {
		print, err := looker.fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return print
	}
	base := TableName + " " + egressBase(t, host, hookByDevice)
	f := newFlood(t, host, peer)
	k := startKeeper(t, host, testSpec())
	f.untilSent(t, phaseApply)
	before := look()
	nft(t, host, "flush ruleset") // passes it over and says nothing
	for _, command := range []string{
		"delete table netdev " + TableName,
		"flush table netdev " + TableName,
		"add table netdev " + TableName + " { flags dormant; }",
		"delete chain netdev " + base,
		"flush chain netdev " + TableName + " egress",
		"insert rule netdev " + TableName + " egress accept",
		"add chain netdev " + base + " { policy accept; }",
	} {
		host.Must(t, "tampering", func() error {
			out, err := exec.Command("nft", command).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "not permitted") {
				t.Errorf("nft %s: got %v: %s; want it refused", command, err, out)
			}
			return nil
		})
	}
	if !look().equal(before) {
		t.Errorf("the table is another: %s", ruleset(t, host))
	}
	f.untilSent(t, phaseApply)
	k.kill()
	f.untilSent(t, phaseKilled)
	startKeeper(t, host, testSpec())
	f.untilSent(t, phaseReboot)
	f.stop()
	for _, phase := range []uint32{phaseApply, phaseKilled, phaseReboot} {
		if leaked, sent := f.leaked(t, phase); leaked > 0 {
			t.Errorf("%s: %d of %d packets leaked", phaseNames[phase], leaked, sent)
		}
	}
}

// Ensure that what is only held goes with who holds it, that Apply makes it last, and that
// nothing passes in between.
func TestHeldForThisProcess(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier, looker := openBarrier(t, host), openBarrier(t, host)
	needOwner(t, barrier)
	present := func(want bool) {
		t.Helper()
		if got, err := looker.Present(); err != nil || got != want {
			t.Fatalf("a table is there: %v, %v; want %v", got, err, want)
		}
	}
	hold := func() {
		t.Helper()
		if err := barrier.Hold(testSpec()); err != nil {
			t.Fatal(err)
		}
		present(true)
	}
	f := newFlood(t, host, peer)
	hold()
	f.untilSent(t, phaseApply)
	barrier.Disown() // as the kernel does when a process ends
	present(false)
	hold()
	f.untilSent(t, phaseFlushed)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	f.untilSent(t, phaseFlushed)
	hold() // changes nothing
	barrier.Disown()
	present(true)
	f.untilSent(t, phaseKilled)
	f.stop()
	for _, phase := range []uint32{phaseFlushed, phaseKilled} {
		if leaked, sent := f.leaked(t, phase); leaked > 0 {
			t.Errorf("%s: %d of %d packets leaked", phaseNames[phase], leaked, sent)
		}
	}
}

// Ensure that a second process is told who is in its way, and that what the first left it
// may take and remove.
func TestHeldTable(t *testing.T) {
	host, _ := netnstest.Pair(t)
	first, second := openBarrier(t, host), openBarrier(t, host)
	needOwner(t, first)
	if err := first.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	if err := second.Apply(testSpec()); !errors.Is(err, ErrHeld) {
		t.Errorf("applying: got %v, want ErrHeld", err)
	}
	if err := second.Remove(); !errors.Is(err, ErrHeld) {
		t.Errorf("removing: got %v, want ErrHeld", err)
	}
	if drift, err := first.Reconcile(testSpec()); err != nil || drift != Unchanged {
		t.Errorf("the first's: got %d, %v; want it unchanged", drift, err)
	}
	first.Disown()
	if err := second.Apply(testSpec()); err != nil {
		t.Errorf("applying what nobody owns: %v", err)
	}
	if _, err := first.Reconcile(testSpec()); !errors.Is(err, ErrHeld) {
		t.Errorf("the first's, of another now: got %v, want ErrHeld", err)
	}
	if err := second.Remove(); err != nil {
		t.Error(err)
	}
	if list := ruleset(t, host); list != "" {
		t.Errorf("left: %s", list)
	}
}

// Ensure that a transaction which failed in many places costs neither the table nor what
// comes next its answer.
func TestFailedTransactionKeepsTheTable(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	needOwner(t, barrier)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	owner := barrier.owner
	for range 3 {
		wrong := &batch{}
		for range 50 {
			wrong.addRule(TableName, "no such chain", jump("egress"))
		}
		if err := barrier.transact(wrong); !errors.Is(err, unix.ENOENT) {
			t.Fatalf("a wrong transaction: got %v, want %v", err, unix.ENOENT)
		}
		if err := barrier.Apply(testSpec()); err != nil {
			t.Fatalf("the next one: %v", err)
		}
	}
	if barrier.owner != owner || !barrier.held() {
		t.Error("the table is not owned any more")
	}
}
