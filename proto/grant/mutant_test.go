package grant_test

import (
	"bytes"
	"crypto"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// mutants is how many changed grants TestMutants tries.
const mutants = 100_000

// Ensure no change of a signed grant is accepted: flipped, cut, doubled and
// exchanged bytes anywhere, fields set anew and signed by everybody who is not an
// operator of this cluster, signatures moved between grants.
func TestMutants(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	alice, bob := ca.IssueBetween(link.KindOperator, "alice", "responder", from, to), ca.IssueBetween(link.KindOperator, "bob", "admin", from, to)
	thieves := map[string]func(payload []byte) *sensorv1.Signature{}
	for name, cert := range map[string]struct {
		ca             *linktest.CA
		kind, id, role string
		from, to       time.Time
	}{
		"node":     {ca, link.KindNode, "alice", "admin", from, to},
		"host":     {ca, link.KindHost, "alice", "responder", from, to},
		"viewer":   {ca, link.KindOperator, "alice", "viewer", from, to},
		"outdated": {ca, link.KindOperator, "alice", "admin", from.Add(-time.Hour), from},
		"foreign":  {foreign, link.KindOperator, "alice", "admin", from, to},
	} {
		c := cert.ca.IssueBetween(cert.kind, cert.id, cert.role, cert.from, cert.to)
		thieves[name] = func(payload []byte) *sensorv1.Signature {
			signature, err := grant.SignPayload(c.PrivateKey.(crypto.Signer), c.Certificate, payload)
			if err != nil {
				t.Fatal(err)
			}
			return signature
		}
	}
	first, second := order(now), order(now)
	first.Approvals, first.Reason = 2, "incident inc-1"
	second.Operation, second.Action = "op-2", sensorv1.Action_ACTION_RELEASE
	second.Nonce = bytes.Repeat([]byte{7}, grant.NonceSize)
	signed, other := approved(t, first, alice, bob), sign(t, alice, second)
	roots := ca.Roots()
	if _, _, err := grant.Verify(signed, roots, linktest.Cluster, now); err != nil {
		t.Fatalf("the unchanged grant: %v", err)
	}
	remembers := new(grant.Verifier) // of the unchanged one, whose certificates are under many mutants
	if _, _, err := remembers.Verify(signed, roots, linktest.Cluster, now); err != nil {
		t.Fatalf("the unchanged grant: %v", err)
	}
	seed := uint64(now.UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range mutants {
		m := proto.CloneOf(signed)
		how := mutate(random, m, other, thieves)
		// A change that changes nothing of what counts is not a mutant: the same bytes,
		// signed by the same two.
		if proto.Equal(m, signed) {
			continue
		}
		g, signers, err := grant.Verify(m, roots, linktest.Cluster, now)
		if err == nil {
			t.Fatalf("mutant %d (seed %d), %s: accepted as %v of %v", i, seed, how, g, signers)
		}
		if g, signers, err = remembers.Verify(m, roots, linktest.Cluster, now); err == nil {
			t.Fatalf("mutant %d (seed %d), %s: accepted by a verifier that remembers, as %v of %v", i, seed, how, g, signers)
		}
	}
	t.Logf("%d mutants, 0 accepted (seed %d)", mutants, seed)
}

func mutate(random *rand.Rand, m, other *sensorv1.SignedGrant, thieves map[string]func([]byte) *sensorv1.Signature) string {
	part, name := &m.Payload, "payload"
	switch random.IntN(3) {
	case 1:
		part, name = &m.Signatures[random.IntN(2)].Signature, "signature"
	case 2:
		part, name = &m.Signatures[random.IntN(2)].Chain[0], "certificate"
	}
	at := random.IntN(len(*part))
	switch random.IntN(8) {
	case 0:
		(*part)[at] ^= 1 << random.IntN(8)
		return name + ", a bit"
	case 1:
		*part = (*part)[:at]
		return name + ", cut"
	case 2:
		*part = append(*part, (*part)[at:]...)
		return name + ", doubled"
	case 3:
		to := random.IntN(len(*part))
		(*part)[at], (*part)[to] = (*part)[to], (*part)[at]
		return name + ", exchanged"
	case 4:
		m.Payload = other.GetPayload()
		return "another's payload"
	case 5:
		m.Signatures[random.IntN(2)] = other.GetSignatures()[0]
		return "another's signature"
	case 6:
		m.Signatures[0], m.Signatures[1] = m.Signatures[1], m.Signatures[0]
		if random.IntN(2) == 0 {
			m.Signatures = m.Signatures[:random.IntN(2)]
		}
		return "signatures in another order, or fewer"
	}
	var g sensorv1.Grant
	if proto.Unmarshal(m.GetPayload(), &g) != nil {
		return "nothing"
	}
	field := setAnew(random, &g)
	payload, err := grant.Encode(&g)
	if err != nil {
		return "nothing"
	}
	m.Payload = payload
	for thief, sign := range thieves {
		if random.IntN(2) == 0 {
			m.Signatures[random.IntN(2)] = sign(payload)
			return fmt.Sprintf("%s set anew, signed by the %s", field, thief)
		}
	}
	return field + " set anew"
}

func setAnew(random *rand.Rand, g *sensorv1.Grant) string {
	switch random.IntN(10) {
	case 0:
		g.Nonce = bytes.Repeat([]byte{byte(random.IntN(256))}, grant.NonceSize)
		return "nonce"
	case 1:
		g.Action = sensorv1.Action(1 + random.IntN(12))
		return "action"
	case 2:
		g.HostCount = uint32(1 + random.IntN(grant.MaxHosts))
		return "count"
	case 3:
		g.HostsRoot = bytes.Repeat([]byte{byte(random.IntN(256))}, 32)
		return "hosts"
	case 4:
		g.LeaseSeconds = random.Uint64()
		return "lease"
	case 5:
		g.Epoch -= random.Uint64N(g.GetEpoch())
		return "epoch"
	case 6:
		g.Approvals = uint32(random.IntN(5))
		return "approvals"
	case 7:
		g.NotAfter = time.Now().Add(time.Duration(random.IntN(1000)) * time.Hour).UnixNano()
		return "end"
	case 8:
		g.Operator, g.Evidence = "", []string{"f-1"}
		return "operator"
	}
	g.Target = &sensorv1.Target{Account: "root"}
	return "target"
}
