package clusterlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

const (
	floodFor = 15 * time.Second
	// floodTick is how often who floods does so, and so many at once: 2,000 forged first packets
	// and 1,000 packets of peers that write them by hand are 20 Mbit/s and more in a second.
	// Who floods has the same two processors as the nodes; proto/link floods a bare listener faster.
	floodTick                = 10 * time.Millisecond
	forgedEach, rawEach      = 20, 5
	forgedAddresses, flights = 32, 300
	// mutes open a connection and say nothing, slows one byte of a frame in each slowByte, giants
	// announce a frame of 4 GiB again and again.
	mutes, slows, giants = 32, 16, 2
	slowByte             = 200 * time.Millisecond
	// mostGrown is what a flood may cost the node: 64 handshakes of addresses that prove nothing
	// (link.ListenConfig.RetryAbove; what is above is answered without state), those 50 connections
	// and as many just ended, at 80 KiB each, which a session may cost, 4 MiB for each of three
	// peers that write by hand, as proto/link's tests allow; and as much again, which is garbage
	// before it is collected.
	mostGrown = 64 << 10 // KiB
	// mostAmplified is QUIC's own bound (RFC 9000, section 8.1).
	mostAmplified = 3.0
)

// Ensure that a leader whose port is flooded, from forged addresses, by peers that write what
// no honest one does, by connections that say nothing, little or far too much, loses nothing that
// was acknowledged, serves those who are there and who come, and stays small.
func TestClusterFlooded(t *testing.T) {
	c := newTrio(t, 3, "")
	writers, stop := c.write(t, 6, 100*time.Millisecond)
	probe, bad := c.enrolRaw(t, "probe"), c.enrolFor(t, "bad", mutes+slows+giants)
	leader := c.leader()
	target := c.node(leader).Listen
	address, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		t.Fatal(err)
	}
	f := &flood{t: t, target: target, flights: linktest.FirstFlights(t, flights), crowd: linktest.NewCrowd(t, forgedAddresses, address), bad: bad}
	for range 3 {
		f.peers = append(f.peers, linktest.NewRaw(t, address))
	}
	probe.nodes = []string{target}
	c.until(20*time.Second, "the writers to be served", func(context.Context) (bool, error) { return written(writers) >= 20*len(writers), nil })
	before := useOf(t, c.Members[leader])

	ctx, cancel := context.WithTimeout(t.Context(), floodFor)
	defer cancel()
	began := time.Now()
	var beside sync.WaitGroup
	var most int
	var came []time.Duration
	var turnedAway error
	beside.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			most = max(most, useOf(t, c.Members[leader]).rssKiB)
		}
	})
	beside.Go(func() { came, turnedAway = probe.comes(ctx) })
	f.run(ctx)
	beside.Wait()
	ended := time.Now()
	sent, received := f.amplified()

	var during int
	var slowest time.Duration
	unserved := 0
	for _, w := range writers {
		if w.resumed(began) == 0 {
			unserved++
			t.Logf("%s was not served:\n%s", w.id, w.story())
		}
		n, worst := w.between(began, ended)
		during, slowest = during+n, max(slowest, worst)
	}
	stop()
	t.Logf("%s led, %s leads now; %s", leader, c.leader(), f)
	labtest.Figure(t, "batches acknowledged in a flood", float64(during), "", "> 0", during > 0,
		fmt.Sprintf("of %d writers in %s, ten a second each are sent at most; slowest %s", len(writers), round(ended.Sub(began)), round(slowest)))
	labtest.Figure(t, "writers not served in a flood", float64(unserved), "", "0", unserved == 0, "by a batch that was sent after it began")
	late := slices.Max(append(came, 0))
	labtest.Figure(t, "sensors that came in a flood", float64(len(came)), "", "> 0", turnedAway == nil && len(came) > 0,
		fmt.Sprintf("to the flooded node, one after another; %v", cmp.Or(turnedAway, errors.New("none was turned away"))))
	labtest.Figure(t, "dialled → acknowledged in a flood, max", late.Seconds(), "s", "≤ 5", late <= 5*time.Second, "")
	labtest.Figure(t, "node RSS growth in a flood", float64(most-before.rssKiB)/1024, "MiB", "≤ 64", most-before.rssKiB <= mostGrown, fmt.Sprintf("from %d MiB", before.rssKiB>>10))
	labtest.Figure(t, "bytes to forged addresses for each of theirs", received/sent, "", "≤ 3", sent > 0 && received <= mostAmplified*sent,
		fmt.Sprintf("%.0f of %.0f KiB; what a socket dropped counts against the node", received/1024, sent/1024))
	c.countedOnce(t, append(writers, &writer{raw: probe}))
}

// between is how many summaries were acknowledged in a time, and what the slowest took.
func (w *writer) between(began, ended time.Time) (n int, slowest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.acked {
		if s.ended.After(began) && s.ended.Before(ended) {
			n, slowest = n+1, max(slowest, s.ended.Sub(s.began))
		}
	}
	return n, slowest
}

// comes opens a session, gets a summary acknowledged and leaves, again and again until ctx ends.
func (r *raw) comes(ctx context.Context) (took []time.Duration, err error) {
	for ctx.Err() == nil {
		r.close()
		began := time.Now()
		one, done := context.WithTimeout(context.Background(), 10*time.Second)
		err := r.push(one)
		done()
		if err != nil {
			return took, fmt.Errorf("a sensor that came was not served in 10 s: %w\n%s", err, r.story())
		}
		took = append(took, time.Since(began))
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	return took, nil
}

// flood is everybody who wishes a node ill.
type flood struct {
	t       *testing.T
	target  string
	flights [][][]byte
	crowd   *linktest.Crowd
	peers   []*linktest.Raw
	bad     []*raw // enrolled hosts' identities, for those that the node must let in

	byHand, muted, slowed, giant, refused atomic.Int64
}

func (f *flood) String() string {
	return fmt.Sprintf("%d forged first packets, %d packets by hand, %d mute, %d slow connections, %d giant frames, %d connections refused",
		f.crowd.Datagrams.Load(), f.byHand.Load(), f.muted.Load(), f.slowed.Load(), f.giant.Load(), f.refused.Load())
}

// run floods until ctx ends.
func (f *flood) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { f.packets(ctx) })
	attackers := 0
	again := func(times int, count *atomic.Int64, attack func(context.Context, *link.Conn)) {
		for range times {
			as := f.bad[attackers/perHost]
			attackers++
			all.Go(func() {
				for ctx.Err() == nil {
					f.connection(ctx, as, count, attack)
				}
			})
		}
	}
	again(mutes, &f.muted, func(ctx context.Context, conn *link.Conn) { over(ctx, conn) })
	again(slows, &f.slowed, trickle)
	again(giants, &f.giant, giantFrame)
	all.Wait()
}

// packets sends what needs no connection, and what honest ones never send in theirs.
func (f *flood) packets(ctx context.Context) {
	tick := time.NewTicker(floodTick)
	defer tick.Stop()
	for i := uint64(0); ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for k := range forgedEach {
			n := int(i)*forgedEach + k
			f.crowd.Send(n, f.flights[n%len(f.flights)])
		}
		for k := range uint64(rawEach) {
			for p, frames := range [][]byte{challenges(), newIDs(i*rawEach + k), linktest.Frames(0x0e, linktest.Varint(0), linktest.Varint(2*(i*rawEach+k)), linktest.Varint(1), []byte{1})} {
				if _, err := f.peers[p].Socket.Write(f.peers[p].Packet(frames)); err == nil {
					f.byHand.Add(1)
				}
			}
		}
	}
}

// challenges are as many path challenges as a packet holds.
func challenges() (out []byte) {
	for range 120 {
		out = append(out, linktest.Frames(0x1a, linktest.Noise(8))...)
	}
	return out
}

// newIDs are connection ids, each of which retires all before it.
func newIDs(i uint64) (out []byte) {
	for k := range uint64(20) {
		n := 1 + 20*i + k
		out = append(out, linktest.Frames(0x18, linktest.Varint(n), linktest.Varint(n), []byte{8}, linktest.Noise(8), linktest.Noise(16))...)
	}
	return out
}

// connection makes one that the node must let in, and has it attack.
func (f *flood) connection(ctx context.Context, as *raw, count *atomic.Int64, attack func(context.Context, *link.Conn)) {
	dialling, done := context.WithTimeout(ctx, 2*time.Second)
	conn, err := as.dial(dialling, f.target)
	done()
	if err == nil {
		count.Add(1)
		attack(ctx, conn)
		_ = conn.CloseWithReason(link.CodeOK, "")
	} else if ctx.Err() == nil {
		f.refused.Add(1)
	}
	select {
	case <-ctx.Done():
	case <-time.After(slowByte):
	}
}

// over waits until the node has had enough of a connection.
func over(ctx context.Context, conn *link.Conn) {
	select {
	case <-ctx.Done():
	case <-conn.Context().Done():
	}
}

// trickle sends a frame that never ends.
func trickle(ctx context.Context, conn *link.Conn) {
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return
	}
	tick := time.NewTicker(slowByte)
	defer tick.Stop()
	for header := []byte{0, 0, 100, 0}; ; header = []byte{0} {
		if _, err := stream.Write(header); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-conn.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// giantFrame announces 4 GiB, and begins with them.
func giantFrame(ctx context.Context, conn *link.Conn) {
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return
	}
	_ = stream.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := stream.Write(append([]byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 256<<10)...)); err == nil {
		over(ctx, conn)
	}
}

// amplified is what the forged addresses have sent and what they got. What the node's socket
// dropped was not sent, and what theirs dropped was got: the larger of the truths.
func (f *flood) amplified() (sent, received float64) {
	const largest = 1500
	_, port, _ := net.SplitHostPort(f.target)
	n, _ := strconv.Atoi(port)
	lost, unread := drops(f.t, fmt.Sprintf("0100007F:%04X", n)), drops(f.t, "4D007F:")
	if lost+unread > 0 {
		f.t.Logf("sockets dropped %.0f datagrams of the node's, %.0f of the forged addresses'", lost, unread)
	}
	return float64(f.crowd.Sent.Load()) - lost*largest, float64(f.crowd.Received.Load()) + unread*largest
}

// drops is how many datagrams the sockets with such a local address have dropped.
func drops(t *testing.T, local string) (sum float64) {
	t.Helper()
	raw, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 13 || !strings.Contains(f[1], local) {
			continue
		}
		n, err := strconv.ParseFloat(f[len(f)-1], 64)
		if err != nil {
			t.Fatalf("reading the drops of %q: %v", line, err)
		}
		sum += n
	}
	return sum
}
