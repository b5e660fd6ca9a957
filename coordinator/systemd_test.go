package coordinator_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Ensure systemd waits for a start that a large state is restored in.
func TestStartAsksForTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = systemd.Close() }()
	_ = systemd.SetReadDeadline(time.Now().Add(patience))
	t.Setenv("NOTIFY_SOCKET", path)
	startCluster(t, 1)
	for _, want := range []string{"EXTEND_TIMEOUT_USEC=120000000", "READY=1"} {
		said := make([]byte, 100)
		n, err := systemd.Read(said)
		if err != nil || string(said[:n]) != want {
			t.Fatalf("told %q, %v; want %q", said[:n], err, want)
		}
	}
}
