package coordinator_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/clustertest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure one join token makes one host, however many race for it at all nodes at once:
// VEDETTE_RACERS of them (the figure is taken with 1000; fewer here, as each is a
// connection). Behind one address those who come late are told to wait, as a guesser is;
// from addresses of their own everybody else is told that the token is used.
func TestTokenRacers(t *testing.T) {
	racers := 150
	if text := os.Getenv("VEDETTE_RACERS"); text != "" {
		var err error
		if racers, err = strconv.Atoi(text); err != nil || racers < 2 || racers > 60_000 {
			t.Fatalf("VEDETTE_RACERS=%q: want a number from 2 to 60000", text)
		}
	}
	t.Run("behind one address", func(t *testing.T) { race(t, racers, false) })
	t.Run("each at its own", func(t *testing.T) { race(t, racers, true) })
}

// race has so many ask with one token. A racer that is told to come again does, as a
// real one.
func race(t *testing.T, racers int, apart bool) {
	c := startCluster(t, 3)
	text := c.token("sensor")
	token, _, _ := enrolRequest(t, text)
	var (
		mu      sync.Mutex
		winners []*testSensor
		said    = map[string]int{} // all that was answered
		last    = map[string]int{} // the last word that each was told
		start   = make(chan struct{})
		running sync.WaitGroup
	)
	patient := 3 * patience // behind one address some would ask for long: it may fail once in five seconds
	if apart {
		patient += time.Duration(racers) * 100 * time.Millisecond
	}
	for i := range racers {
		_, key, request := enrolRequest(t, text)
		var local netip.AddrPort
		if apart {
			local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 0)
		}
		running.Go(func() {
			<-start
			owed := false // it was not answered for certain: it asks on, whoever is before it
			for deadline := time.Now().Add(patient); ; {
				reply, err := askFrom(t, local, c.nodes[i%3].cfg.Advertise, token.CA, request)
				word := reply.GetRefusal().GetCode()
				switch {
				case err != nil:
					word = "connection"
				case reply.GetEnrolled() != nil:
					word = "enrolled"
				}
				owed = owed || word == "connection" || word == "no-leader"
				again := word == "connection" || word == "busy" || word == "no-leader" || word == "rate-limited" && owed
				over := !again || time.Now().After(deadline)
				mu.Lock()
				said[word]++
				if over {
					last[word]++
				}
				if word == "enrolled" {
					e := reply.GetEnrolled()
					winners = append(winners, &testSensor{t: t, id: e.GetId(), key: key, cert: tls.Certificate{Certificate: e.GetChain(), PrivateKey: key}, pool: c.roots()})
				}
				mu.Unlock()
				if over {
					return
				}
			}
		})
	}
	began := time.Now()
	close(start)
	running.Wait()
	note := fmt.Sprintf("of %d at 3 nodes at once, in %s; answers in all: %v", racers, time.Since(began).Round(100*time.Millisecond), said)
	where := "behind one address"
	if apart {
		where = "at addresses of their own"
	}
	clustertest.Figure(t, "racers for one join token, "+where+": enrolled", float64(len(winners)), "", "= 1", len(winners) == 1, note)
	if len(winners) != 1 {
		t.FailNow()
	}
	if apart {
		clustertest.Figure(t, "racers for one join token, "+where+": told that it is used", float64(last["token-used"]), "", fmt.Sprintf("= %d", racers-1), last["token-used"] == racers-1, "")
	}
	for code := range said {
		switch code {
		case "enrolled", "token-used", "rate-limited", "busy", "no-leader", "connection":
		default:
			t.Errorf("somebody was told %q", code)
		}
	}
	if said["token-used"] == 0 {
		t.Error("nobody was told that the token is used: nobody raced")
	}
	// The winner is the one host that the cluster knows, and the record says so once.
	hosts := 0
	for h, err := range c.api.Hosts(t.Context(), nil, 0) {
		if hosts++; err != nil || h.GetId() != winners[0].id {
			t.Errorf("a host %v, %v", h, err)
		}
	}
	enrolled := 0
	for e, err := range c.api.Audit(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.GetAction() == "enroll-sensor" {
			enrolled++
		}
	}
	if hosts != 1 || enrolled != 1 {
		t.Errorf("%d hosts, %d in the record", hosts, enrolled)
	}
	if _, welcome := winners[0].open(c.nodes[2].cfg.Advertise, newBoot()); welcome.GetHostId() != winners[0].id {
		t.Errorf("the winner's welcome: %v", welcome)
	}
	eventually(t, "every node to know one host", func() error {
		for _, n := range c.nodes {
			again, err := ask(t, n.cfg.Advertise, token.CA, func() *sensorv1.EnrollRequest { _, _, r := enrolRequest(t, text); return r }())
			if code := again.GetRefusal().GetCode(); err != nil || code != "token-used" && code != "rate-limited" {
				return errors.Join(err, fmt.Errorf("%s says %q", n.cfg.ID, code))
			}
		}
		return nil
	})
}

// Ensure an enrolment whose answer was lost is answered again, to the same key with the same
// token alone, at every node, and makes no second host.
func TestEnrolAgain(t *testing.T) {
	c := startCluster(t, 3)
	text := c.token("sensor")
	token, _, request := enrolRequest(t, text)
	_, _, other := enrolRequest(t, text)
	var first *sensorv1.Enrolled
	for i := range 6 {
		reply, err := ask(t, c.nodes[i%3].cfg.Advertise, token.CA, request)
		if err != nil || reply.GetEnrolled() == nil {
			t.Fatalf("time %d: %v, %v", i+1, reply.GetRefusal(), err)
		}
		if first == nil {
			first = reply.GetEnrolled()
		}
		if got := reply.GetEnrolled().GetId(); got != first.GetId() {
			t.Errorf("time %d: host %s, want %s", i+1, got, first.GetId())
		}
		// Another key with the token, and the key without it.
		if reply, err = ask(t, c.nodes[i%3].cfg.Advertise, token.CA, other); err != nil || reply.GetRefusal().GetCode() != "token-used" {
			t.Errorf("another key with the token: %v, %v", reply, err)
		}
	}
	guess := proto.Clone(request).(*sensorv1.EnrollRequest)
	guess.TokenSecret[0] ^= 1
	if reply, err := ask(t, c.nodes[0].cfg.Advertise, token.CA, guess); err != nil || reply.GetRefusal().GetCode() != "bad-token" {
		t.Errorf("the key without the secret: %v, %v", reply, err)
	}
	hosts := 0
	for h, err := range c.api.Hosts(t.Context(), nil, 0) {
		if hosts++; err != nil || h.GetId() != first.GetId() {
			t.Errorf("a host %v, %v", h, err)
		}
	}
	if hosts != 1 {
		t.Errorf("%d hosts, want 1", hosts)
	}
	// Once it was removed its key is nobody's.
	if _, err := c.api.RemoveHost(t.Context(), first.GetId(), "test"); err != nil {
		t.Fatal(err)
	}
	if reply, err := ask(t, c.nodes[1].cfg.Advertise, token.CA, request); err != nil || reply.GetRefusal().GetCode() != "token-used" {
		t.Errorf("after its removal: %v, %v", reply, err)
	}
}
