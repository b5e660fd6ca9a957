package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// intruder speaks to the coordinator with a host's real identity, taken from its
// files as somebody who owns that host would.
type intruder struct {
	*rig
	creds link.Credentials
	boot  []byte
}

// intrude enrols a second host and takes its identity.
func (r *rig) intrude(t *testing.T) *intruder {
	t.Helper()
	state := t.TempDir()
	config := filepath.Join(state, "sensor.yaml")
	overwrite(t, config, []byte("state_dir: "+state+"\nhost_name: mallory\n"))
	token, err := r.cluster.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.run(t, filepath.Join(r.lab.Bin, "vedette-sensor"), "enroll", "--config", config, "--coordinator", r.cluster.Nodes[0].Listen, "--token", token)
	return &intruder{rig: r, creds: credentials(t, filepath.Join(state, "identity")), boot: noise(t, 16)}
}

// credentials are those of an identity folder.
func credentials(t *testing.T, dir string) link.Credentials {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "host.crt"), filepath.Join(dir, "host.key"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return link.Credentials{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Roots:       func() *x509.CertPool { return roots },
	}
}

func (i *intruder) dial(ctx context.Context) (conn *link.Conn, err error) {
	err = i.ns.Do(func() error {
		conn, err = link.Dial(ctx, i.cluster.Nodes[0].Listen, link.ALPNSensor, link.DialConfig{Credentials: i.creds})
		return err
	})
	return conn, err
}

// stream opens a connection and a stream on it, which end with the test.
func (i *intruder) stream(t *testing.T) (*link.Conn, net.Conn) {
	t.Helper()
	conn, err := i.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithReason(link.CodeOK, "") })
	stream, err := conn.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn, stream
}

func (i *intruder) hello() *sensorv1.Hello {
	return &sensorv1.Hello{Protocol: frame.ProtocolVersion, SensorVersion: "evil", Boot: i.boot, Facts: &sensorv1.HostFacts{Name: "mallory"}}
}

func sent(t *testing.T, stream net.Conn, m *sensorv1.SensorMessage) {
	t.Helper()
	if err := frame.Write(stream, m); err != nil {
		t.Fatal(err)
	}
}

func helloMessage(h *sensorv1.Hello) *sensorv1.SensorMessage {
	return &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: h}}
}

func batchMessage(b *sensorv1.Batch) *sensorv1.SensorMessage {
	return &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: b}}
}

func answer(t *testing.T, stream net.Conn) *sensorv1.CoordinatorMessage {
	t.Helper()
	m := new(sensorv1.CoordinatorMessage)
	if err := frame.Read(stream, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// welcomed is a session that the coordinator has accepted.
func (i *intruder) welcomed(t *testing.T) (*link.Conn, net.Conn) {
	t.Helper()
	conn, stream := i.stream(t)
	sent(t, stream, helloMessage(i.hello()))
	if m := answer(t, stream); m.GetWelcome() == nil {
		t.Fatalf("not welcomed: %v", m)
	}
	return conn, stream
}

// Ensure what a sensor with a valid certificate sends against the protocol ends
// its own session, is written down, and touches nobody else.
func TestHostileSensorIsRefused(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	i := r.intrude(t)
	note := func() *sensorv1.Record {
		return &sensorv1.Record{Sequence: 1, Time: 1, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{}}}
	}
	raw := func(text []byte) func(*testing.T, net.Conn) {
		return func(t *testing.T, s net.Conn) {
			t.Helper()
			if _, err := s.Write(text); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	batch := func(change func(*sensorv1.Batch)) func(*testing.T, net.Conn) {
		return func(t *testing.T, s net.Conn) {
			t.Helper()
			b := &sensorv1.Batch{Boot: i.boot, Records: []*sensorv1.Record{note()}}
			change(b)
			sent(t, s, batchMessage(b))
		}
	}
	cases := map[string]func(*testing.T, net.Conn){
		"oversized frame":    raw(binary.BigEndian.AppendUint32(nil, 1<<32-1)),
		"just oversized":     raw(append(binary.BigEndian.AppendUint32(nil, frame.MaxFrame+1), make([]byte, 1000)...)),
		"truncated frame":    raw(append(binary.BigEndian.AppendUint32(nil, 100), "ten bytes."...)),
		"truncated length":   raw([]byte{0, 0}),
		"noise":              raw(append(binary.BigEndian.AppendUint32(nil, 500), noise(t, 500)...)),
		"second hello":       func(t *testing.T, s net.Conn) { sent(t, s, helloMessage(i.hello())) },
		"empty batch":        batch(func(b *sensorv1.Batch) { b.Records = nil }),
		"stream id too long": batch(func(b *sensorv1.Batch) { b.Boot = make([]byte, 1000) }),
		"sequence of zero":   batch(func(b *sensorv1.Batch) { b.Records[0].Sequence = 0 }),
		"falling sequence": batch(func(b *sensorv1.Batch) {
			b.Records = append(b.Records, note())
		}),
		"senseless renewal": func(t *testing.T, s net.Conn) {
			sent(t, s, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{Csr: noise(t, 300)}}})
		},
	}
	for name, attack := range cases {
		t.Run(name, func(t *testing.T) {
			before := r.nodeSaid(t, "session closed because of what the sensor sent")
			conn, stream := i.welcomed(t)
			attack(t, stream)
			r.until(t, 10*time.Second, "the session to end", func(context.Context) (bool, error) { return conn.Err() != nil, nil })
			var closed *link.ClosedError
			if err := conn.Err(); !errors.As(err, &closed) || closed.Code != link.CodeProtocol && closed.Code != link.CodeBadFrame {
				t.Errorf("it ended with %v, want a violation of the protocol", err)
			}
			r.until(t, 5*time.Second, "the node's log", func(context.Context) (bool, error) {
				return r.nodeSaid(t, "session closed because of what the sensor sent") == before+1, nil
			})
		})
	}
	for name, c := range map[string]struct {
		change func(*sensorv1.Hello)
		code   string
		says   string
	}{
		"later protocol":  {func(h *sensorv1.Hello) { h.Protocol = 99 }, "unknown-protocol", "same release"},
		"no protocol":     {func(h *sensorv1.Hello) { h.Protocol = 0 }, "unknown-protocol", "same release"},
		"no stream":       {func(h *sensorv1.Hello) { h.Boot = nil }, "bad-hello", "boot id"},
		"too many facts":  {func(h *sensorv1.Hello) { h.Facts.Os = strings.Repeat("x", 100_000) }, "bad-hello", "facts"},
		"facts of mostly": {func(h *sensorv1.Hello) { h.Facts.Addresses = make([]string, 50_000) }, "bad-hello", "facts"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stream := i.stream(t)
			h := i.hello()
			c.change(h)
			sent(t, stream, helloMessage(h))
			if got := answer(t, stream).GetRefusal(); got.GetCode() != c.code || !strings.Contains(got.GetMessage(), c.says) {
				t.Errorf("got %v, want %s that says %q", got, c.code, c.says)
			}
		})
	}
	// The other host's session was never touched.
	if n := r.logged(t, "session with the coordinator"); n != 1 {
		t.Errorf("the other host had %d sessions, want its first one all the time", n)
	}
	r.run(t, shell, "-c", "true", "served")
	r.untilFound(t, 10*time.Second, shell, "served")
}

// nodeSaid is how many lines of the node's log hold text.
func (r *rig) nodeSaid(t *testing.T, text string) int {
	t.Helper()
	raw, err := os.ReadFile(r.cluster.Members["c1"].LogPath)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), text)
}

// Ensure a host can speak only for itself, whatever it writes into its records.
func TestHostCannotSpeakForAnother(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.run(t, shell, "-c", "true", "genuine")
	r.untilFound(t, 10*time.Second, shell, "genuine")
	real, err := r.found(t.Context(), shell)
	if err != nil {
		t.Fatal(err)
	}
	victim, err := r.detail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := r.intrude(t)
	conn, stream := i.stream(t)
	h := i.hello()
	h.Facts.Name = "web1" // the other's name
	sent(t, stream, helloMessage(h))
	me := answer(t, stream).GetWelcome().GetHostId()
	if me == "" || me == victim.ID {
		t.Fatalf("the intruder is %q, the victim %q", me, victim.ID)
	}
	forged := &sensorv1.Finding{Id: real[0].ID, Time: time.Now().UnixNano(), Kind: "rule", Title: "\x1b[2Jforged", Severity: "critical",
		Process: &sensorv1.Process{Pid: 1, Image: []byte(shell), Argv: [][]byte{[]byte("forged")}}}
	sent(t, stream, batchMessage(&sensorv1.Batch{Boot: i.boot, Records: []*sensorv1.Record{
		{Sequence: 1, Time: 1, Body: &sensorv1.Record_Finding{Finding: forged}},
		{Sequence: 2, Time: 2, Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{
			Operation: "op-forged", State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, Detail: "forged"}}},
	}}))
	if a := answer(t, stream).GetAck(); a.GetSequence() != 2 {
		t.Fatalf("not acknowledged: %v", a)
	}
	_ = conn.CloseWithReason(link.CodeOK, "")
	now, err := r.found(t.Context(), shell)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range now {
		if f.ID == real[0].ID && f.Process.Argv[len(f.Process.Argv)-1] != "genuine" {
			t.Errorf("the forged finding took the genuine one's place: %+v", f)
		}
	}
	var host detail
	if err := r.cluster.JSON(t.Context(), &host, "host", "show", victim.ID); err != nil || host.Isolation != "none" {
		t.Errorf("the victim is %q (%v)", host.Isolation, err)
	}
	// Two hosts of one name: nobody is cut off by guess.
	out, err := r.lab.Run(r.cluster.CLIFrom, r.cluster.Command(t.Context(), "isolate", "web1", "--yes", "--reason", "a test"))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "not unique, use the id") {
		t.Errorf("isolate of a name that two hosts have: got %v, want an error that says so\n%s", err, out)
	}
}

// Ensure a flood of connections that say nothing keeps nobody from being served.
func TestSilentConnections(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	i := r.intrude(t)
	refused := 0
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		conn, err := i.dial(ctx)
		cancel()
		if err != nil {
			refused++
			continue
		}
		defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
		stream, err := conn.OpenStream(t.Context())
		if err == nil {
			_, _ = stream.Write([]byte{0, 0, 1}) // a length that never ends
		}
	}
	t.Logf("%d of 100 silent connections were refused", refused)
	began := time.Now()
	r.run(t, shell, "-c", "true", "served")
	r.untilFound(t, 10*time.Second, shell, "served")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a finding took %s beside them", took)
	}
}
