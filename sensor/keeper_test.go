package sensor

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// keeperVariable makes this program what make isolation measures: a process that isolates
// the namespace at descriptor 3 with all that the sensor has for it, and keeps it so until
// it is killed or its standard input ends, which is root's end of an isolation. Its value
// is the Spec, keeperState the state folder, which a next one takes over.
const (
	keeperVariable = "VEDETTE_TEST_KEEPER"
	keeperState    = "VEDETTE_TEST_KEEPER_STATE"
	// keeperRounds makes it isolate for each line that it reads, and end it at the next.
	keeperRounds = "VEDETTE_TEST_KEEPER_ROUNDS"
	// keeperResume makes it fail where no isolation is left for it to keep: one that began
	// anew would hide that.
	keeperResume = "VEDETTE_TEST_KEEPER_RESUME"
	// keeperSays makes it send to its nodes, as the sensor does: a payload for each, by comma.
	keeperSays  = "VEDETTE_TEST_KEEPER_SAYS"
	keeperNetNS = "/proc/self/fd/3"
)

// keeperLease is longer than fifty boots of an emulated host take.
const keeperLease = 12 * time.Hour

func TestMain(m *testing.M) {
	if text := os.Getenv(keeperVariable); text != "" {
		if err := keepIsolated(text); err != nil {
			fmt.Fprintln(os.Stderr, keeperVariable, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func keepIsolated(text string) (err error) {
	var spec isolation.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	if spec.Level != isolation.Full {
		return fmt.Errorf("level %s: this keeper isolates in full", spec.Level)
	}
	s := &Sensor{log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
	s.cfg.Isolation.Enabled, s.cfg.StateDir = true, os.Getenv(keeperState)
	s.cfg.Scope.Kind, s.cfg.Scope.Path = "netns", keeperNetNS
	first := s.openCut()
	if first == nil {
		return errors.New("the first cut is not armed")
	}
	if os.Getenv(keeperRounds) != "" {
		return errors.Join(s.isolateInRounds(spec, first), s.close())
	}
	s.responder, err = s.newKeeper(spec, first, s.cfg.StateDir)
	if err != nil {
		return err
	}
	s.onClose(s.responder.Close)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- s.responder.Run(ctx) }()
	go func() { ended <- s.cut.Follow(ctx) }()
	if s.responder.State() == respond.StateNone {
		if os.Getenv(keeperResume) != "" {
			return errors.New("no isolation was left to be kept")
		}
		status := s.responder.Contain(ctx, respond.LocalOrder{Action: sensorv1.Action_ACTION_ISOLATE, Lease: keeperLease, Reason: "measurement"})
		if status.GetState() != sensorv1.IsolationState_ISOLATION_STATE_APPLIED {
			return fmt.Errorf("isolating: %s: %s", status.GetState(), status.GetDetail())
		}
	}
	if text := os.Getenv(keeperSays); text != "" {
		for i, payload := range strings.Split(text, ",") {
			go sayTo(ctx, spec.Nodes[i], []byte(payload))
		}
	}
	if err := s.tellRepairs(ended); err != nil {
		return err
	}
	cancel()
	if err := errors.Join(<-ended, <-ended, s.close()); err != nil {
		return err
	}
	_, err = respond.EndLocally(context.Background(), respond.LocalEnd{
		StateDir: s.cfg.StateDir, NetNS: keeperNetNS, By: "the measurement", Reason: "it is over", Logger: s.log,
		Lift: func(stopped []respond.StoppedProcess) error { return liftLeft(keeperNetNS, stopped) },
	})
	return err
}

// sayTo sends to a node until ctx ends, whether there is a way there yet or not.
func sayTo(ctx context.Context, node netip.AddrPort, payload []byte) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(node)); err == nil {
			_, _ = conn.Write(payload) // who listens counts what came
			_ = conn.Close()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Sensor) newKeeper(spec isolation.Spec, first respond.FirstCut, state string) (*respond.Responder, error) {
	return respond.New(respond.Config{
		StateDir: state, NodeAddresses: func() []netip.AddrPort { return spec.Nodes }, Roots: x509.NewCertPool,
		ClusterID: "keeper", HostID: "keeper", Enabled: true, ScopeKind: s.cfg.Scope.Kind, NetNS: s.isolationNamespace(), First: first,
		Reachable: func(context.Context, []netip.AddrPort) error { return nil }, Report: func(*sensorv1.IsolationStatus) {}, Logger: s.log,
	})
}

// isolateInRounds is a verdict of level 4, whole: for each line of standard input the word,
// the lease on disk, the table and what only stopping cuts; at the next line it is undone.
// Each round has a state of its own, since a host that isolates itself again and again is
// refused.
func (s *Sensor) isolateInRounds(spec isolation.Spec, first respond.FirstCut) error {
	lines := bufio.NewScanner(os.Stdin)
	say := json.NewEncoder(os.Stdout)
	for round := 0; ; round++ {
		state := filepath.Join(s.cfg.StateDir, strconv.Itoa(round))
		if err := os.MkdirAll(state, 0o700); err != nil {
			return err
		}
		r, err := s.newKeeper(spec, first, state)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		stop := func() error {
			cancel()
			return errors.Join(<-ended, r.Close())
		}
		if err := say.Encode(struct{}{}); err != nil || !lines.Scan() {
			return errors.Join(err, lines.Err(), stop())
		}
		// As CutNow does, which has to know the nodes by then.
		if err := first.Cut(isolation.Full, spec.Nodes); err != nil {
			return errors.Join(err, stop())
		}
		status := r.Contain(ctx, respond.LocalOrder{Action: sensorv1.Action_ACTION_ISOLATE, Lease: time.Hour, Reason: "measurement"})
		if status.GetState() != sensorv1.IsolationState_ISOLATION_STATE_APPLIED {
			return errors.Join(fmt.Errorf("isolating: %s: %s", status.GetState(), status.GetDetail()), stop())
		}
		if err := say.Encode(struct{}{}); err != nil || !lines.Scan() {
			return errors.Join(err, lines.Err(), stop())
		}
		if err := stop(); err != nil {
			return err
		}
		if _, err := respond.EndLocally(context.Background(), respond.LocalEnd{
			StateDir: state, NetNS: keeperNetNS, By: "the measurement", Reason: "it is over", Logger: s.log, Lift: first.Lift,
		}); err != nil {
			return err
		}
	}
}

// tellRepairs says that the namespace is isolated, and each time that the table was put
// back, as the tests of respond/isolation read it; until standard input ends.
func (s *Sensor) tellRepairs(ended <-chan error) error {
	say := json.NewEncoder(os.Stdout)
	word := struct {
		Drift isolation.Drift `json:"drift"`
	}{isolation.Unchanged}
	if err := say.Encode(word); err != nil {
		return err
	}
	released := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		released <- err
	}()
	word.Drift = isolation.Tampered
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for told := uint64(0); ; {
		select {
		case err := <-ended:
			return errors.Join(errors.New("the sensor stopped keeping the isolation"), err)
		case err := <-released:
			return err
		case <-tick.C:
		}
		for ; told < s.responder.Counters().Reapplied; told++ {
			if err := say.Encode(word); err != nil {
				return err
			}
		}
	}
}
