package nodelist_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func list(now time.Time, nodes ...string) *sensorv1.NodeAddresses {
	l := &sensorv1.NodeAddresses{ClusterId: linktest.Cluster, Serial: uint64(now.UnixNano()), NotAfter: now.Add(time.Minute).UnixNano(), Operator: "alice"}
	for i, address := range nodes {
		l.Nodes = append(l.Nodes, &sensorv1.NodeAddress{Id: fmt.Sprintf("n%02d", i+1), Address: address})
	}
	return l
}

func sign(t *testing.T, cert tls.Certificate, l *sensorv1.NodeAddresses) *sensorv1.SignedNodes {
	t.Helper()
	signed, err := nodelist.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, l)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Ensure an admin's list is taken, and nothing else is.
func TestVerify(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	issue := func(ca *linktest.CA, kind, id, role string) tls.Certificate {
		return ca.IssueBetween(kind, id, role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	alice := issue(ca, link.KindOperator, "alice", "admin")
	good := func() *sensorv1.NodeAddresses { return list(now, "10.0.0.1:7443", "[fd00::1]:7443") }
	with := func(change func(*sensorv1.NodeAddresses)) *sensorv1.NodeAddresses {
		l := good()
		change(l)
		return l
	}
	forged := sign(t, alice, good())
	forged.Payload, _ = nodelist.Encode(list(now, "10.0.0.66:7443"))
	appended := sign(t, alice, good())
	appended.Payload = append(appended.Payload, 0x98, 0x1f, 1) // field 499
	// The same nodes the other way round, signed by the admin: not the one encoding.
	disordered := with(func(l *sensorv1.NodeAddresses) { slices.Reverse(l.Nodes) })
	raw, _ := proto.Marshal(disordered)
	signature, err := grant.SignAs("vedette-nodes-v1\x00", alice.PrivateKey.(crypto.Signer), alice.Certificate, raw)
	if err != nil {
		t.Fatal(err)
	}
	asGrant, err := grant.SignPayload(alice.PrivateKey.(crypto.Signer), alice.Certificate, sign(t, alice, good()).GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		signed *sensorv1.SignedNodes
		want   error
	}{
		{"an admin", sign(t, alice, good()), nil},
		{"in another order", sign(t, alice, disordered), nil},
		{"nothing", nil, nodelist.ErrMalformed},
		{"nobody signed", &sensorv1.SignedNodes{Payload: sign(t, alice, good()).GetPayload()}, nodelist.ErrMalformed},
		{"another list's signature", forged, nodelist.ErrSignature},
		{"signed as a grant", &sensorv1.SignedNodes{Payload: sign(t, alice, good()).GetPayload(), Signature: asGrant}, nodelist.ErrSignature},
		{"an unknown field", appended, nodelist.ErrMalformed},
		{"not in order", &sensorv1.SignedNodes{Payload: raw, Signature: signature}, nodelist.ErrMalformed},
		{"a viewer", sign(t, issue(ca, link.KindOperator, "alice", "viewer"), good()), nodelist.ErrForbidden},
		{"a responder", sign(t, issue(ca, link.KindOperator, "alice", "responder"), good()), nodelist.ErrForbidden},
		{"a node", sign(t, issue(ca, link.KindNode, "alice", "admin"), good()), nodelist.ErrForbidden},
		{"a host", sign(t, issue(ca, link.KindHost, "alice", "admin"), good()), nodelist.ErrForbidden},
		{"another admin", sign(t, issue(ca, link.KindOperator, "bob", "admin"), good()), nodelist.ErrForbidden},
		{"another authority", sign(t, issue(foreign, link.KindOperator, "alice", "admin"), good()), nodelist.ErrUntrusted},
		{"an expired certificate", sign(t, ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-2*time.Hour), now.Add(-time.Hour)), good()), nodelist.ErrUntrusted},
		{"another cluster", sign(t, alice, with(func(l *sensorv1.NodeAddresses) { l.ClusterId = "c-other" })), nodelist.ErrForeign},
		{"expired", sign(t, alice, list(now.Add(-time.Hour), "10.0.0.1:7443")), nodelist.ErrTime},
		{"of tomorrow", sign(t, alice, list(now.Add(24*time.Hour), "10.0.0.1:7443")), nodelist.ErrTime},
		{"beyond its certificate", sign(t, alice, with(func(l *sensorv1.NodeAddresses) { l.NotAfter = now.Add(2 * time.Hour).UnixNano() })), nodelist.ErrTime},
	} {
		l, signer, err := nodelist.Verify(tt.signed, ca.Roots(), linktest.Cluster, now)
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if err == nil && (signer.ID != "alice" || !slices.Equal(nodelist.Endpoints(l), []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:7443"), netip.MustParseAddrPort("[fd00::1]:7443")})) {
			t.Errorf("%s: %v by %s", tt.name, l, signer.ID)
		}
	}
}

// Ensure what is no list of endpoints of single machines is never signed.
func TestCheck(t *testing.T) {
	now := time.Now()
	many := make([]string, nodelist.MaxNodes)
	for i := range many {
		many[i] = fmt.Sprintf("[2001:db8:1111:2222:3333:4444:5555:%x]:65535", 0x6000+i)
	}
	full := list(now, many...)
	for _, n := range full.Nodes {
		n.Id += string(bytes.Repeat([]byte("n"), 60))
	}
	if _, err := nodelist.Encode(full); err != nil {
		t.Errorf("the longest list: %v", err)
	}
	for name, l := range map[string]*sensorv1.NodeAddresses{
		"empty":            list(now),
		"too many":         list(now, append(many, "10.0.0.1:1")...),
		"twice":            list(now, "10.0.0.1:7443", "10.0.0.1:7443"),
		"a name":           list(now, "node1:7443"),
		"no port":          list(now, "10.0.0.1"),
		"port 0":           list(now, "10.0.0.1:0"),
		"unspecified":      list(now, "0.0.0.0:7443"),
		"unspecified, v6":  list(now, "[::]:7443"),
		"multicast":        list(now, "224.0.0.1:7443"),
		"multicast, v6":    list(now, "[ff02::1]:7443"),
		"broadcast":        list(now, "255.255.255.255:7443"),
		"mapped":           list(now, "[::ffff:10.0.0.1]:7443"),
		"zone":             list(now, "[fe80::1%eth0]:7443"),
		"another spelling": list(now, "[fd00:0::1]:7443"),
		"bad id":           {ClusterId: "c", Serial: 1, NotAfter: 2, Operator: "a", Nodes: []*sensorv1.NodeAddress{{Id: "N 1", Address: "10.0.0.1:1"}}},
		"no cluster":       {Serial: 1, NotAfter: 2, Operator: "a", Nodes: full.Nodes},
		"no operator":      {ClusterId: "c", Serial: 1, NotAfter: 2, Nodes: full.Nodes},
		"no serial":        {ClusterId: "c", NotAfter: 2, Operator: "a", Nodes: full.Nodes},
		"serial past 2^63": {ClusterId: "c", Serial: 1 << 63, NotAfter: 2, Operator: "a", Nodes: full.Nodes},
		"ends before":      {ClusterId: "c", Serial: 2, NotAfter: 2, Operator: "a", Nodes: full.Nodes},
	} {
		if _, err := nodelist.Encode(l); !errors.Is(err, nodelist.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCovers(t *testing.T) {
	l := list(time.Now(), "10.0.0.1:7443", "[fd00::1]:7443")
	for _, tt := range []struct {
		id, address string
		want        bool
	}{
		{"n01", "10.0.0.1:7443", true},
		{"n01", "[::ffff:10.0.0.1]:7443", true},
		{"n02", "[fd00::1]:7443", true},
		{"n01", "node1.example:7443", true},
		{"n01", "node1.example:7444", false},
		{"n01", "10.0.0.2:7443", false},
		{"n01", "10.0.0.1:7444", false},
		{"n02", "10.0.0.1:7443", false}, // another node's
		{"n03", "10.0.0.1:7443", false},
		{"n01", "10.0.0.1", false},
	} {
		if got := nodelist.Covers(l, tt.id, tt.address); got != tt.want {
			t.Errorf("%s at %s: %t", tt.id, tt.address, got)
		}
	}
	if nodelist.Covers(nil, "n01", "10.0.0.1:7443") {
		t.Error("no list covers a node")
	}
}

// mutants is how many changed lists TestMutants tries.
const mutants = 10_000

// Ensure no change of a signed list is accepted: flipped, cut, doubled and exchanged
// bytes anywhere, fields set anew and signed by everybody who is not an admin of this
// cluster, signatures moved between lists.
func TestMutants(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	alice := ca.IssueBetween(link.KindOperator, "alice", "admin", from, to)
	var thieves []tls.Certificate
	for _, c := range []struct {
		ca         *linktest.CA
		kind, role string
		from, to   time.Time
	}{
		{ca, link.KindNode, "admin", from, to}, {ca, link.KindHost, "admin", from, to},
		{ca, link.KindOperator, "viewer", from, to}, {ca, link.KindOperator, "responder", from, to},
		{ca, link.KindOperator, "admin", from.Add(-time.Hour), from}, {foreign, link.KindOperator, "admin", from, to},
	} {
		thieves = append(thieves, c.ca.IssueBetween(c.kind, "alice", c.role, c.from, c.to))
	}
	signed := sign(t, alice, list(now, "10.0.0.1:7443", "10.0.0.2:7443", "[fd00::1]:7443"))
	other := sign(t, alice, list(now.Add(-time.Second), "10.0.0.9:7443"))
	if _, _, err := nodelist.Verify(signed, ca.Roots(), linktest.Cluster, now); err != nil {
		t.Fatalf("the unchanged list: %v", err)
	}
	seed := uint64(now.UnixNano())
	random, tried := rand.New(rand.NewPCG(seed, 1)), 0
	for i := range mutants {
		m := proto.CloneOf(signed)
		how := mutate(t, random, m, other, thieves)
		if proto.Equal(m, signed) {
			continue // a change that changes nothing is no mutant
		}
		tried++
		if l, signer, err := nodelist.Verify(m, ca.Roots(), linktest.Cluster, now); err == nil {
			t.Fatalf("mutant %d (seed %d), %s: accepted as %v of %v", i, seed, how, l, signer)
		}
	}
	t.Logf("%d mutants, 0 accepted (seed %d)", tried, seed)
}

func mutate(t *testing.T, random *rand.Rand, m, other *sensorv1.SignedNodes, thieves []tls.Certificate) string {
	part, name := &m.Payload, "payload"
	switch random.IntN(3) {
	case 1:
		part, name = &m.Signature.Signature, "signature"
	case 2:
		part, name = &m.Signature.Chain[0], "certificate"
	}
	at := random.IntN(len(*part))
	switch random.IntN(7) {
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
		m.Signature = other.GetSignature()
		return "another's signature"
	}
	l, err := nodelist.Decode(m.GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	field := setAnew(random, l)
	payload, err := nodelist.Encode(l)
	if err != nil {
		return "nothing"
	}
	m.Payload = payload
	if random.IntN(2) == 0 {
		thief := thieves[random.IntN(len(thieves))]
		stolen, err := nodelist.Sign(thief.PrivateKey.(crypto.Signer), thief.Certificate, l)
		if err != nil {
			t.Fatal(err)
		}
		m.Signature = stolen.GetSignature()
		return field + " set anew, signed by a thief"
	}
	return field + " set anew"
}

func setAnew(random *rand.Rand, l *sensorv1.NodeAddresses) string {
	switch random.IntN(6) {
	case 0:
		l.Serial += 1 + random.Uint64N(1e9)
		return "serial"
	case 1:
		l.NotAfter += 1 + random.Int64N(int64(10*time.Minute))
		return "end"
	case 2:
		l.Operator = "bob"
		return "operator"
	case 3:
		l.Nodes = l.GetNodes()[1:]
		return "fewer nodes"
	case 4:
		l.Nodes = append(l.GetNodes(), &sensorv1.NodeAddress{Id: "n66", Address: fmt.Sprintf("10.66.0.%d:7443", 1+random.IntN(200))})
		return "a node"
	}
	l.Nodes[random.IntN(len(l.GetNodes()))].Address = fmt.Sprintf("10.66.0.%d:7443", 1+random.IntN(200))
	return "address"
}

// FuzzDecode: no bytes end the program, and what is a list has one encoding and only
// endpoints that an isolation can open.
func FuzzDecode(f *testing.F) {
	for _, l := range []*sensorv1.NodeAddresses{list(time.Unix(1_800_000_000, 0), "10.0.0.1:7443"), list(time.Unix(1, 0), "[fd00::1]:1", "127.0.0.1:65535")} {
		payload, err := nodelist.Encode(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		l, err := nodelist.Decode(payload)
		if err != nil {
			return
		}
		again, err := nodelist.Encode(l)
		if err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("%x, %v is read from %x", again, err, payload)
		}
		endpoints := nodelist.Endpoints(l)
		if len(endpoints) == 0 || len(endpoints) > nodelist.MaxNodes || len(endpoints) != len(l.GetNodes()) {
			t.Fatalf("%d endpoints of %d nodes", len(endpoints), len(l.GetNodes()))
		}
		for _, e := range endpoints {
			if a := e.Addr(); a.IsMulticast() || a.IsUnspecified() || a.Zone() != "" || a.Is4In6() || e.Port() == 0 {
				t.Fatalf("endpoint %s", e)
			}
		}
	})
}
