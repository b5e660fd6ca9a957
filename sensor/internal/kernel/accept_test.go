package kernel

import (
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that a connection that another process accepts than listened becomes that one's,
// its end included, and that nothing of it is kept.
func TestAcceptedByAnother(t *testing.T) {
	w := open(t, Config{})
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=accept")
	child.ExtraFiles, child.Stderr = []*os.File{file}, os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("echo")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	client := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	closed := first(w, "the end", func(e *event.FlowClose) bool { return e.Remote == client })
	opens := filter(w.all(), func(e *event.FlowOpen) bool { return e.Remote == client })
	if len(opens) != 2 || opens[0].Accepted || opens[0].Process.PID != uint32(os.Getpid()) {
		t.Fatalf("%d openings: %+v", len(opens), opens)
	}
	worker := uint32(child.Process.Pid)
	if got := opens[1]; !got.Accepted || got.Process.PID != worker || got.Dir != event.Inbound || got.Flow != opens[0].Flow || got.Local != opens[0].Local {
		t.Errorf("accepted as %+v, listened for as %+v", got, opens[0])
	}
	if closed.Process.PID != worker || closed.BytesIn != 4 || closed.BytesOut != 4 || closed.Opened != opens[0].Time {
		t.Errorf("closed as %+v", closed)
	}
	own, _ := exchangeOn(t, listener, 1, 1)
	first(w, "the end of one that the listener accepts", func(e *event.FlowClose) bool { return e.Remote == own })
	if again := filter(w.all(), func(e *event.FlowOpen) bool { return e.Remote == own }); len(again) != 1 {
		t.Errorf("%d openings of one that the listener accepts", len(again))
	}
	for _, id := range []uint64{closed.Flow.Cookie, first(w, "it", func(e *event.FlowOpen) bool { return e.Remote == own }).Flow.Cookie} {
		if raw, err := w.collection.Maps[bpf.VedetteMapAccepts].LookupBytes(id); err != nil || raw != nil {
			t.Errorf("the table still holds %d: %v", id, err)
		}
	}
}
