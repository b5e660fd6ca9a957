package ingest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog answers proposals after a while and remembers how large they were.
type fakeLog struct {
	mu      sync.Mutex
	entries [][]string
	fail    error
	slow    time.Duration
}

func (l *fakeLog) Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	if size := proto.Size(cmd); size > consensus.MaxCommand {
		return nil, fmt.Errorf("%w: %d bytes", consensus.ErrInvalid, size)
	}
	select {
	case <-time.After(l.slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	res := &raftv1.Result{}
	var hosts []string
	for _, b := range cmd.GetIngest().GetBatches() {
		hosts = append(hosts, b.GetHost())
		if b.GetHost() != "h-unknown" {
			res.Acks = append(res.Acks, &raftv1.HostAck{Host: b.GetHost(), Boot: b.GetBatch().GetBoot(), Sequence: b.GetBatch().GetPrev() + 1})
		}
	}
	l.entries = append(l.entries, hosts)
	return res, nil
}

func (l *fakeLog) Subscribe(func(uint64, *raftv1.Command, *raftv1.Result)) func() { return func() {} }
func (l *fakeLog) ReadBarrier(context.Context) error                              { return nil }
func (l *fakeLog) Leader() (id, addr string, ok bool)                             { return "n1", "", true }

func testBatcher(log Log) *batcher {
	return newBatcher(Config{NodeID: "n1", Log: log, CoalesceBytes: 64 << 10, CoalesceDelay: 20 * time.Millisecond, RoutineDelay: 200 * time.Millisecond,
		MaxInflightBytes: 1 << 20, CommitTimeout: 4 * time.Second, Now: time.Now})
}

func hostBatch(host string, prev uint64, bytes int) *raftv1.HostBatch {
	return &raftv1.HostBatch{Host: host, Batch: &sensorv1.Batch{Boot: make([]byte, bytes), Prev: prev}}
}

// Ensure batches that come together share an entry, in size and in time, and
// each gets its own answer.
func TestCoalesce(t *testing.T) {
	for _, tt := range []struct {
		name    string
		count   int
		bytes   int
		entries int
	}{
		{"small ones", 50, 100, 1},
		{"until 64 KiB", 8, 16 << 10, 2},
		{"more while one is under way", 20, 16 << 10, 2},
		{"as much as one may grow", 50, 16 << 10, 3}, // 64, 512 and 224 KiB
		{"large ones alone", 4, 600 << 10, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &fakeLog{slow: 5 * time.Millisecond}
				b := testBatcher(log)
				ctx, cancel := context.WithCancel(t.Context())
				var running, sessions sync.WaitGroup
				running.Go(func() { _ = b.run(ctx) })
				synctest.Wait() // what comes before it runs is one entry
				for i := range tt.count {
					sessions.Go(func() {
						host := fmt.Sprintf("h-%d", i)
						ack, err := b.submit(ctx, hostBatch(host, uint64(i), tt.bytes))
						if err != nil || ack.GetHost() != host || ack.GetSequence() != uint64(i)+1 {
							t.Errorf("%s: got %v, %v", host, ack, err)
						}
					})
				}
				sessions.Wait()
				cancel()
				running.Wait()
				if len(log.entries) != tt.entries {
					t.Errorf("got %d entries, want %d", len(log.entries), tt.entries)
				}
				if b.inflight != 0 {
					t.Errorf("%d bytes are still held", b.inflight)
				}
			})
		})
	}
}

// Ensure what nobody acts on waits for company, and what somebody acts on for none,
// whichever came first.
func TestRoutineWaits(t *testing.T) {
	summary := &sensorv1.Record{Sequence: 1, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{}}}
	finding := &sensorv1.Record{Sequence: 1, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{}}}
	large := &sensorv1.Record{Sequence: 1, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{Losses: []*sensorv1.Loss{{Cause: strings.Repeat("x", routineBytes)}}}}}
	for _, tt := range []struct {
		name    string
		records [][]*sensorv1.Record // a batch each, 30 ms apart
		answers []time.Duration      // after the first was given
	}{
		{"summaries", [][]*sensorv1.Record{{summary}, {summary}, {summary}}, []time.Duration{200, 200, 200}},
		{"a finding among them", [][]*sensorv1.Record{{summary}, {finding}, {summary}}, []time.Duration{50, 50, 260}},
		{"a finding first", [][]*sensorv1.Record{{finding}, {summary}}, []time.Duration{20, 230}},
		{"a large summary", [][]*sensorv1.Record{{large}, {summary}}, []time.Duration{20, 230}},
		{"a spool that empties", [][]*sensorv1.Record{{summary, summary}, {summary}}, []time.Duration{20, 230}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := testBatcher(&fakeLog{})
				ctx, cancel := context.WithCancel(t.Context())
				var running, sessions sync.WaitGroup
				running.Go(func() { _ = b.run(ctx) })
				begun := time.Now()
				for i, records := range tt.records {
					sessions.Go(func() {
						batch := hostBatch(fmt.Sprintf("h-%d", i), 0, 16)
						batch.Batch.Records = records
						if _, err := b.submit(ctx, batch); err != nil {
							t.Error(err)
						}
						if got, want := time.Since(begun), tt.answers[i]*time.Millisecond; got != want {
							t.Errorf("batch %d: answered after %s, want %s", i, got, want)
						}
					})
					<-time.After(30 * time.Millisecond)
				}
				sessions.Wait()
				cancel()
				running.Wait()
			})
		})
	}
}

// Ensure a batch that does not fit beside those that wait does not spoil them.
func TestEntryBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBatcher(&fakeLog{})
		b.cfg.CoalesceBytes, b.cfg.MaxInflightBytes = 512<<10, 4<<20
		ctx, cancel := context.WithCancel(t.Context())
		var running, sessions sync.WaitGroup
		running.Go(func() { _ = b.run(ctx) })
		for i, bytes := range []int{500 << 10, 900 << 10} {
			sessions.Go(func() {
				if _, err := b.submit(ctx, hostBatch(fmt.Sprintf("h-%d", i), 0, bytes)); err != nil {
					t.Errorf("%d bytes: %v", bytes, err)
				}
			})
			synctest.Wait()
		}
		sessions.Wait()
		cancel()
		running.Wait()
	})
}

// Ensure two batches of one host in an entry (an old session's and its
// successor's) and a host that the log does not know are not confused.
func TestAnswersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBatcher(&fakeLog{})
		ctx, cancel := context.WithCancel(t.Context())
		var running, sessions sync.WaitGroup
		running.Go(func() { _ = b.run(ctx) })
		for i, host := range []string{"h-1", "h-unknown", "h-1", "h-2"} {
			sessions.Go(func() {
				ack, err := b.submit(ctx, hostBatch(host, uint64(i), 16))
				if known := host != "h-unknown"; (err == nil) != known || known && ack.GetSequence() != uint64(i)+1 {
					t.Errorf("%d of %s: got %v, %v", i, host, ack, err)
				}
			})
			synctest.Wait()
		}
		sessions.Wait()
		cancel()
		running.Wait()
	})
}

// Ensure a batch is given up in time without a quorum, and at once when the node stops.
func TestNoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBatcher(&fakeLog{fail: errors.New("no leader")})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = b.run(ctx) })
		begun := time.Now()
		var sessions sync.WaitGroup
		for i := range 2 { // the second waits behind the first
			sessions.Go(func() {
				if _, err := b.submit(t.Context(), hostBatch(fmt.Sprintf("h-%d", i), 0, 16)); err == nil || time.Since(begun) > 5*time.Second {
					t.Errorf("batch %d: got %v after %s", i, err, time.Since(begun))
				}
			})
			<-time.After(time.Second)
		}
		sessions.Wait()
		stopped := make(chan error, 1)
		go func() {
			_, err := b.submit(t.Context(), hostBatch("h-1", 0, 16))
			stopped <- err
		}()
		synctest.Wait()
		cancel()
		running.Wait()
		if err := <-stopped; err == nil {
			t.Error("a stopping node acknowledged")
		}
	})
}

// Ensure strangers are slowed by address and everybody else is not.
func TestLimiter(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter(func() time.Time { return now })
	addr := func(s string) net.Addr { return net.UDPAddrFromAddrPort(parseAddr(t, s)) }
	guesser, other := addr("192.0.2.1:5"), addr("192.0.2.2:5")
	if l.wait(guesser) != 0 {
		t.Fatal("a first attempt waits")
	}
	for range failureBurst {
		if l.wait(guesser) != 0 {
			t.Fatal("limited within the burst")
		}
		l.failed(guesser)
	}
	if got := l.wait(addr("192.0.2.1:6")); got <= 0 || got > failurePeriod {
		t.Errorf("another port of the address: got %s", got)
	}
	if l.wait(other) != 0 {
		t.Error("another address waits")
	}
	now = now.Add(failurePeriod)
	if l.wait(guesser) != 0 {
		t.Error("waits after its time")
	}
	for range 2 * failureBurst {
		l.failed(addr("[2001:db8::1]:1"))
	}
	if l.wait(addr("[2001:db8::ffff]:1")) == 0 {
		t.Error("an address of the same /64 is let in")
	}
	for i := range 2 * maxAddresses {
		l.failed(addr(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)))
	}
	if len(l.full) > maxAddresses+1 {
		t.Errorf("%d addresses are kept", len(l.full))
	}
}

func parseAddr(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return ap
}
