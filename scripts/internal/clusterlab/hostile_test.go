package clusterlab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// use is what a process holds.
type use struct {
	rssKiB, fds int
}

func useOf(t *testing.T, p *lab.Process) use {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return use{kib, len(fds)}
}

// Ensure that whatever an enrolled host sends, the node stays bounded and serves the others.
func TestClusterHostileSensor(t *testing.T) {
	c := newTrio(t, 1, "")
	node := c.Nodes[0]
	writers, stop := c.write(t, 3, 100*time.Millisecond)
	bad := c.enrolRaw(t, "bad")
	before := useOf(t, c.Members["n1"])
	served := func(t *testing.T, what func()) {
		t.Helper()
		from, began := written(writers), time.Now()
		what()
		c.until(10*time.Second, "the others to be served", func(context.Context) (bool, error) { return written(writers) >= from+15, nil })
		t.Logf("took %s; others had %d acknowledged; node uses %+v", round(time.Since(began)), written(writers)-from, useOf(t, c.Members["n1"]))
	}
	session := func(t *testing.T) {
		t.Helper()
		bad.close()
		if err := bad.open(t.Context(), node.Listen); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("120,000 new behaviours", func(t *testing.T) {
		served(t, func() {
			session(t)
			for from := 0; from < 120_000; from += 10_000 {
				m, err := bad.send(bad.batch(news(from, 10_000)), 10*time.Second)
				if err != nil || m.GetAck() == nil {
					t.Fatalf("at %d: %v, %v", from, m, err)
				}
				bad.seq = m.GetAck().GetSequence()
			}
		})
		var host struct {
			Losses []struct {
				Cause string `json:"cause"`
				Count uint64 `json:"count"`
			} `json:"losses"`
		}
		c.asks(c.Context, &host, "host", "show", bad.id)
		if len(host.Losses) != 1 || host.Losses[0].Cause != "behaviour-limit" || host.Losses[0].Count != 20_000 {
			t.Errorf("losses %+v, want 20,000 by behaviour-limit", host.Losses)
		}
	})
	t.Run("10,000 records again and again", func(t *testing.T) {
		served(t, func() {
			session(t)
			batch := bad.batch(counts(512)...)
			for range 20 { // stale after the first
				m, err := bad.send(batch, 10*time.Second)
				if err != nil || m.GetAck() == nil {
					t.Fatalf("%v, %v", m, err)
				}
				bad.seq = m.GetAck().GetSequence()
			}
		})
	})
	ends := func(name string, send func() error) {
		t.Run(name, func(t *testing.T) {
			served(t, func() {
				session(t)
				err := send()
				_ = bad.stream.SetDeadline(time.Now().Add(5 * time.Second))
				for err == nil {
					m := &sensorv1.CoordinatorMessage{}
					err = frame.Read(bad.stream, m)
				}
				t.Logf("the node said: %v", err)
				if strings.Contains(err.Error(), "i/o timeout") {
					t.Error("the node went on with it")
				}
			})
		})
	}
	raw := func(b *sensorv1.Batch) func() error {
		return func() error {
			return frame.Write(bad.stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: b}})
		}
	}
	ends("falling sequences", raw(&sensorv1.Batch{Boot: bad.boot, Prev: 5, Records: []*sensorv1.Record{{Sequence: 9}, {Sequence: 8}}}))
	ends("a huge sequence", raw(&sensorv1.Batch{Boot: bad.boot, Records: []*sensorv1.Record{{Sequence: 1 << 63}}}))
	ends("a short boot", raw(&sensorv1.Batch{Boot: []byte("x"), Records: []*sensorv1.Record{{Sequence: 1}}}))
	ends("more records than a sensor sends at once", raw(bad.batch(counts(513)...)))
	ends("an empty batch", raw(&sensorv1.Batch{Boot: bad.boot}))
	ends("a frame of 4 GiB", func() error { _, err := bad.stream.Write([]byte{0xff, 0xff, 0xff, 0xff, 1}); return err })
	ends("no protobuf", func() error { _, err := bad.stream.Write([]byte{0, 0, 0, 3, 0xff, 0xff, 0xff}); return err })
	ends("a second hello", func() error {
		return frame.Write(bad.stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: 1, Boot: bad.boot}}})
	})
	t.Run("a new boot with every batch", func(t *testing.T) {
		served(t, func() {
			// Another host: what that one owes by now outlives its sessions.
			reborn := c.enrolRaw(t, "reborn")
			if err := reborn.open(t.Context(), node.Listen); err != nil {
				t.Fatal(err)
			}
			for i := range 80 { // more than are kept of a host; a node waits 200 ms for more to write with each
				boot := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
				m, err := reborn.send(&sensorv1.Batch{Boot: boot[:16], Records: []*sensorv1.Record{{Sequence: 1, Body: count().Body}}}, 5*time.Second)
				if err != nil || m.GetAck() == nil {
					t.Fatalf("%v, %v", m, err)
				}
			}
		})
	})
	c.suspected(t, map[string][]string{bad.id: {"behaviour-flood", "malformed"}})
	stop()
	c.countedOnce(t, writers)
	after := useOf(t, c.Members["n1"])
	labtest.Figure(t, "node RSS after a hostile sensor", float64(after.rssKiB)/1024, "MiB", "≤ 300", after.rssKiB < 300<<10, fmt.Sprintf("before: %d MiB", before.rssKiB>>10))
}

// Ensure that sensors which connect and vanish, without a word or after one, leave nothing behind.
func TestClusterForgetsVanishedSensors(t *testing.T) {
	c := newTrio(t, 1, "")
	r := c.enrolRaw(t, "web1")
	if err := r.push(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.close()
	const n = 500
	hosts := c.enrolFor(t, "vanishing", n)
	before := useOf(t, c.Members["n1"])
	began := time.Now()
	conns := make([]*link.Conn, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range conns {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			conn, err := hosts[i/perHost].dial(t.Context(), c.Nodes[0].Listen)
			if err != nil {
				t.Errorf("sensor %d: %v", i, err)
				return
			}
			conns[i] = conn
			if i%2 == 0 { // half a word
				if stream, err := conn.OpenStream(t.Context()); err == nil {
					_, _ = stream.Write([]byte{0, 0, 0, 50, 1})
				}
			}
		})
	}
	wg.Wait()
	open := useOf(t, c.Members["n1"])
	t.Logf("%d handshakes in %s: %+v, before %+v", n, round(time.Since(began)), open, before)
	for _, conn := range conns {
		if conn != nil {
			_ = conn.CloseWithReason(link.CodeOK, "")
		}
	}
	var after use
	c.until(30*time.Second, "file descriptors and goroutines to be given back", func(context.Context) (bool, error) {
		after = useOf(t, c.Members["n1"])
		return after.fds <= before.fds+2, fmt.Errorf("%+v, before %+v", after, before)
	})
	if err := r.push(t.Context()); err != nil {
		t.Fatal(err)
	}
	labtest.Figure(t, "node fds after 500 sensors vanished", float64(after.fds-before.fds), "more", "≤ 2", after.fds <= before.fds+2, "")
	labtest.Figure(t, "node RSS after 500 sensors vanished", float64(after.rssKiB)/1024, "MiB", "≤ 200", after.rssKiB < 200<<10, fmt.Sprintf("before: %d MiB", before.rssKiB>>10))
}

// Ensure that a node under steady load does not grow. Two minutes with VEDETTE_LONG, else twenty seconds.
func TestClusterDoesNotGrow(t *testing.T) {
	c := newTrio(t, 3, "")
	_, stop := c.write(t, 30, 100*time.Millisecond)
	settle, most := 5*time.Second, 15*time.Second
	if os.Getenv("VEDETTE_LONG") != "" {
		settle, most = 30*time.Second, 90*time.Second
	}
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-t.Context().Done():
		}
	}
	wait(settle)
	uses := map[string]use{}
	for id, p := range c.Members {
		uses[id] = useOf(t, p)
	}
	wait(most)
	for id, p := range c.Members {
		was, is := uses[id], useOf(t, p)
		note := fmt.Sprintf("%d → %d MiB in %s under 300 batches/s", was.rssKiB>>10, is.rssKiB>>10, most)
		labtest.Figure(t, "node RSS growth "+id, float64(is.rssKiB-was.rssKiB)/1024, "MiB", "≤ 32", is.rssKiB-was.rssKiB < 32<<10, note)
		labtest.Figure(t, "node fd growth "+id, float64(is.fds-was.fds), "", "≤ 4", is.fds-was.fds <= 4, "")
	}
	stop()
}
