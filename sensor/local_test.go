package sensor

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

const offlineHost = "h-aaaaaaaaaaaa"

// byHand is a host in a namespace that no coordinator reaches any more, and who may
// order it: operators, whose authority is not the cluster's.
type byHand struct {
	t             testing.TB
	cfg           Config
	log           *slog.Logger
	ca, operators *linktest.CA
	alice, thief  tls.Certificate
	host, peer    *netnstest.Namespace
}

func newByHand(t testing.TB) *byHand {
	t.Helper()
	now := time.Now()
	h := &byHand{t: t, cfg: DefaultConfig(), log: slog.New(slog.DiscardHandler), ca: linktest.NewCA(t), operators: linktest.NewCA(t)}
	h.host, h.peer = netnstest.Pair(t)
	h.alice = h.operators.IssueBetween(link.KindOperator, "alice", "responder", now.Add(-time.Hour), now.Add(time.Hour))
	// What whoever has a node's files can make.
	h.thief = h.ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	// Longer than a socket's path may be.
	h.cfg.StateDir = filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	h.cfg.Scope = Scope{Kind: "netns", Path: h.host.Path()}
	h.guard()
	h.enrol()
	return h
}

// guard is before anything that may isolate: "" would be the machine's own namespace.
func (h *byHand) guard() {
	h.t.Helper()
	if got := (&Sensor{cfg: h.cfg}).isolationNamespace(); got != h.host.Path() {
		h.t.Fatalf("refusing to isolate in %q, the test's namespace is %q", got, h.host.Path())
	}
}

// enrol enrols the host at a node that is gone afterwards.
func (h *byHand) enrol() {
	h.t.Helper()
	listener, err := link.Listen("127.0.0.1:0", link.ListenConfig{Credentials: h.ca.Issue(link.KindNode, "n1", "")})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	served := make(chan error, 1)
	go func() {
		served <- listener.Serve(ctx, map[string]func(context.Context, *link.Conn){link.ALPNEnroll: func(ctx context.Context, c *link.Conn) {
			stream, err := c.AcceptStream(ctx)
			if err != nil {
				return
			}
			defer stream.Close()
			request := new(sensorv1.EnrollRequest)
			if frame.Read(stream, request) != nil {
				return
			}
			now := time.Now()
			_ = frame.Write(stream, &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Enrolled{Enrolled: &sensorv1.Enrolled{
				Id: offlineHost, ClusterId: linktest.Cluster, Roots: [][]byte{h.ca.Certificate.Raw}, OperatorRoots: [][]byte{h.operators.Certificate.Raw},
				Chain: h.ca.SignCSR(request.GetCsr(), link.KindHost, offlineHost, now.Add(-time.Minute), now.Add(time.Hour)),
			}}})
		}})
	}()
	h.cfg.Coordinators = []string{listener.Addr().String()}
	token := link.NewToken(h.ca.Pin(), h.operators.Pin())
	if id, err := Enroll(h.t.Context(), h.cfg, token.String(), false); err != nil || id != offlineHost {
		h.t.Errorf("enrolling: %q, %v", id, err)
	}
	cancel()
	if err := errors.Join(<-served, listener.Close()); err != nil {
		h.t.Error(err)
	}
}

// sign makes an order for a host as who signs would.
func (h *byHand) sign(who tls.Certificate, action sensorv1.Action, operation, host string) *sensorv1.SignedGrant {
	h.t.Helper()
	nonce := make([]byte, grant.NonceSize)
	_, _ = rand.Read(nonce)
	now := time.Now()
	g := &sensorv1.Grant{
		Nonce: nonce, Action: action, LeaseSeconds: 3600, Epoch: uint64(now.UnixNano()), IssuedAt: now.UnixNano(),
		NotAfter: now.Add(time.Hour).UnixNano(), Operator: "alice", Reason: "test", Operation: operation, ClusterId: linktest.Cluster,
	}
	set, err := grant.Address(g, host)
	if err != nil {
		h.t.Fatal(err)
	}
	signed, err := grant.Sign(who.PrivateKey.(crypto.Signer), who.Certificate, g)
	if err != nil {
		h.t.Fatal(err)
	}
	signed.Proof = set.Prove(host)
	return signed
}

func (h *byHand) token(who tls.Certificate, operation, host string) string {
	h.t.Helper()
	text, err := grant.ReleaseToken(h.sign(who, sensorv1.Action_ACTION_RELEASE, operation, host))
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}

// isolate cuts the host off, as a sensor that is gone since did. The identity is the
// enrolled one, so that it also tells whom a sensor takes for an operator.
func (h *byHand) isolate(operation string) {
	h.t.Helper()
	id, err := uplink.LoadIdentity(filepath.Join(h.cfg.StateDir, "identity"))
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := respond.New(respond.Config{
		StateDir: h.cfg.StateDir, NodeAddresses: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("10.77.0.2:7700")} },
		Roots: id.OperatorRoots, ClusterID: id.Cluster, HostID: id.HostID, Enabled: true, ScopeKind: "netns", NetNS: h.host.Path(),
		Reachable: func(context.Context, []netip.AddrPort) error { return nil }, Report: func(*sensorv1.IsolationStatus) {}, Logger: h.log,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			h.t.Error(err)
		}
	}()
	stolen := r.Grant(h.t.Context(), h.sign(h.thief, sensorv1.Action_ACTION_ISOLATE, "op-stolen", offlineHost)).GetStatus()
	if stolen.GetState() != sensorv1.IsolationState_ISOLATION_STATE_REFUSED || !strings.Contains(stolen.GetDetail(), "not trusted") {
		h.t.Errorf("an order signed by a node's key: got %s %q", stolen.GetState(), stolen.GetDetail())
	}
	status := r.Grant(h.t.Context(), h.sign(h.alice, sensorv1.Action_ACTION_ISOLATE, operation, offlineHost)).GetStatus()
	if strings.Contains(status.GetDetail(), isolation.ErrNoEgress.Error()) {
		h.t.Skipf("SKIP: %s", status.GetDetail())
	}
	if status.GetState() != sensorv1.IsolationState_ISOLATION_STATE_APPLIED {
		h.t.Fatalf("isolating: %s %q", status.GetState(), status.GetDetail())
	}
	h.is("after isolating", true)
}

func (h *byHand) is(what string, isolated bool) {
	h.t.Helper()
	capture := netnstest.NewCapture(h.t, h.peer, netnstest.PeerDevice)
	h.host.Must(h.t, "sending", func() error { return netnstest.SendUDP("", "10.77.0.2:9999", []byte("ordinary")) })
	if passed := capture.Count(h.t, []byte("ordinary")); (passed == 0) != isolated {
		h.t.Errorf("%s: %d packets passed, isolated %v is expected", what, passed, isolated)
	}
}

// release expects a release to end as said: with words of its detail or its refusal.
func (h *byHand) release(what, token string, want error, words string) {
	h.t.Helper()
	h.guard()
	detail, err := Release(h.t.Context(), h.cfg, token, h.log)
	if !errors.Is(err, want) || want == nil && err != nil {
		h.t.Errorf("%s: got %q, %v; want %v", what, detail, err, want)
		return
	}
	if err != nil {
		detail = err.Error()
	}
	if !strings.Contains(detail, words) {
		h.t.Errorf("%s: got %q, want it to say %q", what, detail, words)
	}
}

// Ensure an operator's token releases an isolated host that no coordinator reaches
// and where no sensor runs: that host, once, and nobody else's token does.
func TestReleaseWithoutSensor(t *testing.T) {
	h := newByHand(t)
	h.isolate("op-first")
	h.release("a node's key", h.token(h.thief, "op-x", offlineHost), ErrRefused, "not trusted")
	h.release("another host's", h.token(h.alice, "op-x", "h-bbbbbbbbbbbb"), ErrRefused, "not for this host")
	h.release("no token", "vdr1.nonsense", grant.ErrReleaseToken, "copy it again")
	h.is("after refusals", true)
	token := h.token(h.alice, "op-hand", offlineHost)
	h.release("the right one", token, nil, "op-first")
	h.is("after the release", false)
	h.release("the same again", token, nil, "already released")
	h.isolate("op-second")
	h.release("the same at another isolation", token, ErrRefused, "")
	h.is("after a used token", true)

	// The next sensor has it all to tell.
	kept, err := spool.Open(filepath.Join(h.cfg.StateDir, "spool"), spool.Config{Logger: h.log})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	ctx, cancel := context.WithTimeout(t.Context(), slow.Deadline(10*time.Second))
	defer cancel()
	told := map[string]sensorv1.IsolationState{}
	for len(told) < 2 {
		_, _, records, err := kept.Next(ctx, 100)
		if err != nil {
			t.Fatalf("only %v told: %v", told, err)
		}
		for _, r := range records {
			if s := r.GetIsolation(); s.GetState() == sensorv1.IsolationState_ISOLATION_STATE_RELEASED {
				told[s.GetOperation()] = s.GetState()
			}
		}
	}
	if told["op-first"] == 0 || told["op-hand"] == 0 {
		t.Errorf("told of %v, want op-first and op-hand released", told)
	}
}

// Ensure a running sensor takes a release by its door, under its own lock, and that
// one whose door is shut is not gone around.
func TestReleaseByRunningSensor(t *testing.T) {
	h := newByHand(t)
	h.isolate("op-first")
	s := &Sensor{cfg: h.cfg, log: h.log}
	var err error
	if s.identity, err = uplink.LoadIdentity(s.path("identity")); err != nil {
		t.Fatal(err)
	}
	// What an earlier one left is no obstacle.
	if err := os.WriteFile(s.path(doorName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.guard()
	if err := s.openResponder(); err != nil {
		t.Fatal(err)
	}
	h.release("with its door shut", h.token(h.alice, "op-x", offlineHost), spool.ErrInUse, "stop it")
	s.openDoor()
	if s.door == nil {
		t.Fatal("no door")
	}
	if info, err := os.Stat(s.path(doorName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.door.run(ctx) }()
	h.release("a node's key", h.token(h.thief, "op-x", offlineHost), ErrRefused, "not trusted")
	h.is("after a refusal", true)
	h.release("the right one", h.token(h.alice, "op-hand", offlineHost), nil, "op-first")
	h.is("after the release", false)
	cancel()
	if err := errors.Join(<-ran, s.close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.path(doorName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// Ensure the door takes a release from root and nothing else from anybody.
func TestDoor(t *testing.T) {
	dir := t.TempDir()
	asked := make(chan *sensorv1.SignedGrant, 1)
	d, err := openDoor(dir, func(_ context.Context, signed *sensorv1.SignedGrant) *sensorv1.GrantResult {
		asked <- signed
		return &sensorv1.GrantResult{Status: &sensorv1.IsolationStatus{Detail: "done"}}
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- d.run(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-ran, d.close()); err != nil {
			t.Error(err)
		}
	}()
	h := &byHand{t: t, ca: linktest.NewCA(t)}
	now := time.Now()
	alice := h.ca.IssueBetween(link.KindOperator, "alice", "responder", now.Add(-time.Hour), now.Add(time.Hour))
	release := h.sign(alice, sensorv1.Action_ACTION_RELEASE, "op-1", offlineHost)

	result, err := handIn(t.Context(), dir, h.sign(alice, sensorv1.Action_ACTION_ISOLATE, "op-1", offlineHost))
	if err != nil || result.GetStatus().GetState() != sensorv1.IsolationState_ISOLATION_STATE_REFUSED {
		t.Errorf("an isolation: got %v, %v", result, err)
	}
	// Whatever else is said is hung up on, and the next caller is served.
	for name, say := range map[string]func(net.Conn) error{
		"nothing":  func(net.Conn) error { return nil },
		"no frame": func(c net.Conn) error { _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); return err },
		"too much": func(c net.Conn) error {
			_, _ = c.Write(append([]byte{0, 15, 0, 0}, make([]byte, 2*grant.MaxReleaseToken)...)) // it hangs up on the way
			return nil
		},
	} {
		conn, err := net.Dial("unix", d.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := say(conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.(*net.UnixConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(slow.Deadline(doorPatience)))
		if answer, _ := io.ReadAll(conn); len(answer) != 0 {
			t.Errorf("%s: answered with %x", name, answer)
		}
		_ = conn.Close()
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root to be somebody else")
	}
	if err := asNobody(func() error {
		conn, err := net.Dial("unix", d.path)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = frame.Write(conn, release) // it may hang up before
		_ = conn.SetReadDeadline(time.Now().Add(slow.Deadline(doorPatience)))
		if answer, _ := io.ReadAll(conn); len(answer) != 0 {
			t.Errorf("nobody was answered: %x", answer)
		}
		return nil
	}, dir, d.path); err != nil {
		t.Error(err)
	}
	select {
	case signed := <-asked:
		t.Fatalf("honoured %v", signed)
	default:
	}
	if result, err = handIn(t.Context(), dir, release); err != nil || result.GetStatus().GetDetail() != "done" {
		t.Errorf("root's release: got %v, %v", result, err)
	}
}

// asNobody runs f by a thread of another user, who is let through the paths' modes.
func asNobody(f func() error, paths ...string) error {
	for _, path := range paths {
		if err := os.Chmod(path, 0o777); err != nil {
			return err
		}
	}
	for parent := filepath.Dir(paths[0]); parent != "/" && parent != os.TempDir(); parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			return err
		}
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		const nobody, same = 65534, ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, nobody, same); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}
