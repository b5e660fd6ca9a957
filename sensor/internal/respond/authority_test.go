package respond

import (
	"crypto"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a grant that comes late, after a later one, is refused, also by a sensor
// that was started anew in between.
func TestOvertakenGrant(t *testing.T) {
	b := newBench(t, nil)
	early := b.sign(b.order(sensorv1.Action_ACTION_ISOLATE, "op-1"))
	b.expect("isolate", b.isolate("op-2"), applied, "", true)
	b.expect("release", b.release("op-3"), released, "ended", false)
	b.expect("held back and sent now", b.r.Grant(t.Context(), early).GetStatus(), refused, "a later grant was honoured", false)
	b.restart()
	b.expect("after a restart", b.r.Grant(t.Context(), early).GetStatus(), refused, "a later grant was honoured", false)
}

// many signs g for as many hosts, this one among them, by alice and others.
func (b *bench) many(g *sensorv1.Grant, hosts int, others ...string) *sensorv1.SignedGrant {
	b.t.Helper()
	ids := []string{testHost}
	for i := range hosts - 1 {
		ids = append(ids, fmt.Sprintf("h-other%04d", i))
	}
	signed := b.sign(g, ids...)
	for _, name := range others {
		cert := b.ca.IssueBetween(link.KindOperator, name, "responder", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		signature, err := grant.SignPayload(cert.PrivateKey.(crypto.Signer), cert.Certificate, signed.GetPayload())
		if err != nil {
			b.t.Fatal(err)
		}
		signed.Signatures = append(signed.Signatures, signature)
	}
	return signed
}

// Ensure the sensor itself asks for a second operator above the caps of its intent,
// whatever the coordinator let through.
func TestCapIsChecked(t *testing.T) {
	b := newBench(t, nil)
	order := func(operation string, fleet uint32) *sensorv1.Grant {
		g := b.order(sensorv1.Action_ACTION_ISOLATE, operation)
		g.Fleet = fleet
		return g
	}
	grantFor := func(g *sensorv1.Grant, hosts int, others ...string) *sensorv1.IsolationStatus {
		return b.r.Grant(t.Context(), b.many(g, hosts, others...)).GetStatus()
	}
	b.expect("4 of 100", grantFor(order("op-1", 100), 4), refused, "more hosts than one operator may contain alone", false)
	b.expect("11 of 1000", grantFor(order("op-2", 1000), 11), refused, "the intent allows 10", false)
	b.expect("10 of 1000", grantFor(order("op-3", 1000), 10), applied, "", true)
	b.expect("many, approved", grantFor(order("op-4", 100), 50, "bob"), applied, "", true)
	asked := order("op-5", 100)
	asked.Approvals = 3
	b.expect("asks for three", grantFor(asked, 2, "bob"), refused, "2 of 3 operators signed", true)
	free := b.order(sensorv1.Action_ACTION_RELEASE, "op-6")
	b.expect("a release of many", grantFor(free, 500), released, "", false)
}

// Ensure the coordinator's word alone does nothing, and with this host's own
// evidence it does, but for what only people may do.
func TestCorroboration(t *testing.T) {
	supports := errors.New("nothing like it was seen here")
	b := newBench(t, func(c *Config) { c.Corroborates = func(*sensorv1.Grant) error { return supports } })
	automatic := func(action sensorv1.Action, operation string) *sensorv1.SignedGrant {
		g := b.order(action, operation)
		g.Operator, g.Evidence = "", []string{"f-1"}
		set, err := grant.Address(g, testHost)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := grant.Encode(g)
		if err != nil {
			t.Fatal(err)
		}
		return &sensorv1.SignedGrant{Payload: payload, Proof: set.Prove(testHost)}
	}
	isolate, release := sensorv1.Action_ACTION_ISOLATE, sensorv1.Action_ACTION_RELEASE
	b.expect("no evidence", b.r.Grant(t.Context(), automatic(isolate, "op-1")).GetStatus(), refused, "nothing like it was seen here", false)
	supports = nil
	b.expect("evidence", b.r.Grant(t.Context(), automatic(isolate, "op-2")).GetStatus(), applied, "", true)
	b.expect("a release by nobody", b.r.Grant(t.Context(), automatic(release, "op-3")).GetStatus(), refused, "only an operator releases", true)
	b.r.cfg.Corroborates = nil
	b.expect("no way to know", b.r.Grant(t.Context(), automatic(isolate, "op-4")).GetStatus(), refused, "no operator signed", true)
}
