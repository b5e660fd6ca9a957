package coordinator_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure one join token makes one host, however many race for it at all nodes at once:
// VEDETTE_RACERS of them (the figure is taken with 1000; fewer here, as each is a
// connection). A racer that is told to wait comes again, as a real one does.
func TestTokenRacers(t *testing.T) {
	racers := 150
	if text := os.Getenv("VEDETTE_RACERS"); text != "" {
		var err error
		if racers, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	c := startCluster(t, 3)
	text := c.token("sensor")
	token, _, _ := enrolRequest(t, text)
	began := time.Now()
	var (
		mu       sync.Mutex
		winners  []*testSensor
		outcomes = map[string]int{}
		start    = make(chan struct{})
		running  sync.WaitGroup
	)
	for i := range racers {
		_, key, request := enrolRequest(t, text)
		running.Go(func() {
			<-start
			owed := false // it was not answered for certain: it asks on, whoever is before it
			for deadline := time.Now().Add(3 * patience); ; {
				reply, err := ask(t, c.nodes[i%3].cfg.Advertise, token.CA, request)
				code := reply.GetRefusal().GetCode()
				mu.Lock()
				switch {
				case err != nil:
					outcomes["connection"]++
				case reply.GetEnrolled() != nil:
					e := reply.GetEnrolled()
					winners = append(winners, &testSensor{t: t, id: e.GetId(), key: key, cert: tls.Certificate{Certificate: e.GetChain(), PrivateKey: key}, pool: c.roots()})
				default:
					outcomes[code]++
				}
				mu.Unlock()
				owed = owed || err != nil || code == "no-leader"
				if err == nil && code != "busy" && code != "no-leader" && (code != "rate-limited" || !owed) || time.Now().After(deadline) {
					return
				}
			}
		})
	}
	close(start)
	running.Wait()
	t.Logf("%d racers at 3 nodes: %d won, others %v, in %s", racers, len(winners), outcomes, time.Since(began).Round(time.Millisecond))
	if len(winners) != 1 {
		t.Fatalf("%d of %d racers enrolled with one token", len(winners), racers)
	}
	for code := range outcomes {
		switch code {
		case "token-used", "rate-limited", "busy", "no-leader", "connection":
		default:
			t.Errorf("somebody was told %q", code)
		}
	}
	if outcomes["token-used"] == 0 {
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
