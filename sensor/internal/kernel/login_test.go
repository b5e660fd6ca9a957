package kernel

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that the first exec in a new login session can not become known, whatever is
// executed, and that another can.
func TestLoginIsTold(t *testing.T) {
	if _, err := os.Stat("/proc/self/sessionid"); err != nil {
		t.Skip("SKIP: needs a kernel with audit")
	}
	w := open(t, Config{KeepKnown: true})
	if _, err := w.Tasks(t.Context()); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// By a shell: what this process executes itself, the sensor's, is always told.
	child := exec.Command("/bin/sh", "-c", `"$0"; exit`, self)
	child.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=login")
	if out, err := child.CombinedOutput(); err != nil {
		t.Skipf("SKIP: needs a login uid that can be set: %v: %s", err, out)
	}
	login := first(w, "the login", func(e *event.Exec) bool { return slices.Contains(argv(e), "in-a-session") })
	if login.Key != 0 || login.LoginUID != 0 || login.SessionID == event.NoSession {
		t.Errorf("login: key %d, login uid %d, session %d", login.Key, login.LoginUID, login.SessionID)
	}
	plain := first(w, "the exec before it", func(e *event.Exec) bool { return e.Parent.PID == uint32(child.Process.Pid) })
	if plain.Key == 0 {
		t.Error("an exec in no session can not become known")
	}
}
