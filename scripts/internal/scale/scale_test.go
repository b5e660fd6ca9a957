package scale

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

// programs is the folder of the built programs: `make test` builds them once for all.
func programs(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("VEDETTE_BIN"); bin != "" {
		return bin
	}
	bin := t.TempDir()
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "../../../cmd/...").CombinedOutput()
	if err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return bin
}

// freePorts is the first of three free UDP ports whose operators' ports are free as well.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 50 {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := conn.LocalAddr().(*net.UDPAddr).Port
		conn.Close()
		if port < 60000 && free(port) {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func free(port int) bool {
	for i := range nodes {
		udp, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", port+i))
		if err != nil {
			return false
		}
		udp.Close()
		tcp, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port+10+i))
		if err != nil {
			return false
		}
		tcp.Close()
	}
	return true
}

const (
	testHosts   = 24
	testWindows = 14
	testEvery   = 500 * time.Millisecond
)

// Ensure that in a fleet with churn, storms, slow and hostile sensors every honest one
// loses nothing and is counted once, that what breaks the protocol is refused, that each
// hostile one is a finding about itself and no honest one is, and that a campaign over some of
// them is one incident that names them all.
func TestSmallFleetLives(t *testing.T) {
	cfg := Config{Bin: programs(t), Dir: t.TempDir(), Port: freePorts(t), Log: func(text string) { t.Log(text) }}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := newStage(ctx, cfg, "test", world.Config{Seed: 2, Hosts: testHosts, Window: 5 * time.Minute, Late: 80, LateWindows: 4, Slow: 80, Hostile: 250, Churn: 150,
		RolloutEvery: 20 * time.Minute, StormEvery: 30 * time.Minute, Campaigns: 1, CampaignStart: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	defer func() {
		if t.Failed() {
			for id, p := range s.cluster.Members {
				t.Logf("%s said:\n%s", id, p.Tail())
			}
		}
	}()
	if err := s.fleet.Grow(ctx, testHosts); err != nil {
		t.Fatal(err)
	}
	if err := s.fleet.Pace(ctx, 0, testWindows, testEvery); err != nil {
		t.Fatal(err)
	}
	away, err := s.fleet.Drain(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tally := s.fleet.Tally()
	if tally.Made == 0 || tally.Made != tally.Acknowledged+away || tally.Dropped != 0 {
		t.Errorf("%d records made, %d acknowledged, %d wait on hosts that are away, %d dropped", tally.Made, tally.Acknowledged, away, tally.Dropped)
	}
	if fleet.Sum(tally.Lost) != 0 {
		t.Errorf("sessions were lost: %s", fleet.Causes(tally.Lost, nil))
	}
	if tally.Goodbyes == 0 || tally.Born == 0 || tally.Stormed == 0 {
		t.Errorf("%d goodbyes, %d born, %d sessions in storms: it was no life", tally.Goodbyes, tally.Born, tally.Stormed)
	}
	for kind := world.Gap; kind <= world.Liar; kind++ {
		m, lawful := tally.Misdeeds[kind], kind == world.Flood || kind == world.Liar
		if lawful && m.Taken == 0 || !lawful && (m.Taken != 0 || m.Refused == 0) {
			t.Errorf("%s: %+v", kind, m)
		}
	}
	if !t.Failed() {
		s.stored(ctx, t)
	}
	s.suspected(ctx, t)
	joining, stop := context.WithTimeout(ctx, joinLimit)
	defer stop()
	wrong, err := s.unjoined(ctx)
	for err == nil && len(wrong) > 0 && pause(joining, 100*time.Millisecond) == nil {
		wrong, err = s.unjoined(ctx)
	}
	if err != nil || len(wrong) > 0 {
		t.Errorf("campaigns: %v, %v", wrong, err)
	}
}

// suspicions are what the cluster tells of a kind of sensor. Slow ones are bounded and held
// back, and do nothing that only a hostile one does.
var suspicions = map[world.Kind]string{world.Gap: "sequence", world.Backwards: "malformed", world.Oversize: "malformed", world.Giant: "malformed",
	world.Flood: "behaviour-flood", world.Liar: "time"}

// suspected waits until each hostile sensor is a finding about its own host, with its kind, and
// holds the cluster to telling nothing else of anybody's.
func (s *stage) suspected(ctx context.Context, t *testing.T) {
	t.Helper()
	want, lies := make(map[string]string), make(map[string]bool)
	for n := range s.world.Size() {
		lies[s.fleet.ID(n)] = s.world.Host(n).Kind == world.Liar
		if kind := suspicions[s.world.Host(n).Kind]; kind != "" {
			want[s.fleet.ID(n)] = kind
		}
	}
	if len(want) < len(suspicions) {
		t.Fatalf("%d hosts are hostile, want one of each of %d kinds", len(want), len(suspicions))
	}
	telling, stop := context.WithTimeout(ctx, joinLimit)
	defer stop()
	for {
		got := make(map[string]string)
		for row, err := range s.client.Findings(ctx, &operatorv1.ListFindingsRequest{}) {
			if err != nil {
				t.Fatal(err)
			}
			f := row.GetFinding()
			if f.GetRuleId() == "clock" && lies[row.GetHost()] {
				continue // its clock goes back and forth, too: told when one node had enough of it
			}
			if f.GetKind() == "suspect-sensor" {
				got[row.GetHost()] += f.GetRuleId()
			}
		}
		if maps.Equal(got, want) {
			return
		}
		if pause(telling, 100*time.Millisecond) != nil {
			t.Errorf("told of sensors is %v, want %v (the tally: %+v)", got, want, s.fleet.Tally().Misdeeds)
			return
		}
	}
}

// stored holds what the cluster has of honest hosts against what their world says that
// they did.
func (s *stage) stored(ctx context.Context, t *testing.T) {
	t.Helper()
	compared := 0
	for n := range s.world.Size() {
		if h := s.world.Host(n); h.Kind != world.Honest || !s.world.Present(n, testWindows-1) {
			continue
		}
		want := make(map[string]uint64)
		for k := range testWindows {
			if !s.world.Present(n, k) {
				continue
			}
			// A host that was born, or has come back, begins with the window that it came in.
			for _, d := range s.world.Summary(n, k).GetDeltas() {
				want[string(d.GetKey())] += d.GetCount()
			}
		}
		got, err := s.client.Host(ctx, s.fleet.ID(n))
		if err != nil {
			t.Fatal(err)
		}
		rows := make(map[string]uint64)
		for _, row := range got.GetBehaviours() {
			rows[string(row.GetBehaviour().GetKey())] = row.GetCount()
		}
		if len(rows) != len(want) {
			t.Errorf("host %d: %d behaviours are stored, it did %d", n, len(rows), len(want))
		}
		for key, count := range want {
			if rows[key] != count {
				t.Errorf("host %d: %x is counted %d times, it did it %d times", n, key, rows[key], count)
			}
		}
		compared++
	}
	if compared < 5 {
		t.Errorf("only %d hosts were compared", compared)
	}
}

// Ensure what cannot be is refused before anything is started.
func TestConfig(t *testing.T) {
	for _, cfg := range []Config{{Size: 1}, {Size: MaxSize + 1}, {Every: time.Millisecond}, {Hold: MaxHold + 1}, {Herd: "some"}, {Only: []string{"nothing"}}, {Speed: 10_000}} {
		if rows, err := Run(t.Context(), cfg); err == nil || rows != nil {
			t.Errorf("%+v gave %d rows, %v", cfg, len(rows), err)
		}
	}
}

// Ensure memory that grew is a miss in a long run, and only told in a short one.
func TestGrowth(t *testing.T) {
	var samples []sums
	for i := range 40 {
		samples = append(samples, sums{rss: []int{100_000 + 1000*i, 100_000, 100_000}})
	}
	if row := (&stage{cfg: Config{Hold: time.Hour}}).growth(samples); row.OK || row.Value < 9 || row.Value > 11 {
		t.Errorf("a tenth more: %+v", row)
	}
	if row := (&stage{cfg: Config{Hold: time.Minute}}).growth(samples); !row.OK || row.Target != "" {
		t.Errorf("in a short run: %+v", row)
	}
	if row := (&stage{cfg: Config{Hold: time.Hour}}).growth(samples[:1]); row.OK && row.Target != "" {
		t.Errorf("of one sample: %+v", row)
	}
}
