package sensor

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// learnt is a baseline that notes what it is told.
type learnt struct {
	pack     *baseline.Pack
	fleet    *baseline.Pack
	paused   time.Time
	forgot   int
	asked    []event.BehaviourKey
	learning bool
	kernel   []uint64
}

func (l *learnt) UsePack(p *baseline.Pack)  { l.pack = p }
func (l *learnt) UseFleet(p *baseline.Pack) { l.fleet = p }
func (l *learnt) Pause(until time.Time)     { l.paused = until }
func (l *learnt) Unlearn(match func(event.Behaviour, time.Time) bool, keys ...event.BehaviourKey) (int, []uint64) {
	l.forgot++
	l.asked = keys
	n := 0
	for _, b := range []event.Behaviour{
		{Kind: event.BehaviourExec, Subject: "/bin/sh", Object: "/tmp/x"}, {Kind: event.BehaviourFlow, Subject: "/tmp/x", Object: "out tcp 10.0.0.9 22"},
		{Kind: event.BehaviourExec, Subject: "/tmp/xy", Object: "/bin/sh"}, {Kind: event.BehaviourExec, Subject: "/tmp/x /tmp/x.py", Object: "/bin/sh"},
	} {
		if match(b, time.Unix(0, 50)) {
			n++
		}
	}
	return n, l.kernel
}

func learningOf(t *testing.T, path string, ca *linktest.CA, l *learnt, unknow func(...uint64) error) *learningBook {
	t.Helper()
	b := openLearning(path, linktest.Cluster, "h-1", ca.Roots, slog.New(slog.DiscardHandler))
	b.begin(l, func() bool { return l.learning }, unknow)
	return b
}

func roleHeld(b *learningBook) []byte {
	role, _ := b.held()
	return role
}

func packBy(t *testing.T, cert *tls.Certificate, operator string, made time.Time, of uint32) *sensorv1.SignedPack {
	t.Helper()
	return packFor(t, "web", cert, operator, made, of)
}

func packFor(t *testing.T, role string, cert *tls.Certificate, operator string, made time.Time, of uint32) *sensorv1.SignedPack {
	t.Helper()
	p := &sensorv1.Pack{ClusterId: linktest.Cluster, Role: role, MadeAt: made.UnixNano(), Of: of, Operator: operator, Behaviours: []*sensorv1.PackBehaviour{
		{Kind: 1, Subject: []byte("/bin/sh"), Object: []byte("/tmp/x"), Hosts: of}, {Kind: 1, Subject: []byte("/bin/sh"), Object: []byte("/usr/bin/ls"), Hosts: of}}}
	if cert == nil {
		payload, err := pack.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		return &sensorv1.SignedPack{Payload: payload}
	}
	p.NotAfter = made.Add(time.Hour).UnixNano()
	signed, err := pack.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, p)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Ensure that of packs the newest which an operator signed counts, that a node's is taken only while the
// host learns and by nobody's side, and that what was taken is there after a restart.
func TestTakePack(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	ann := ca.IssueBetween(link.KindOperator, "ann", "hunter", now.Add(-time.Hour), now.Add(time.Hour))
	path := filepath.Join(t.TempDir(), "learning.json")
	l := &learnt{learning: true}
	b := learningOf(t, path, ca, l, nil)
	want := func(what string, trusted bool, signed *sensorv1.SignedPack) {
		t.Helper()
		if l.pack == nil || l.pack.Trusted != trusted || string(roleHeld(b)) != string(pack.Sum(signed)) {
			t.Errorf("%s: in use is %+v", what, l.pack)
		}
	}
	b.takePack(packBy(t, nil, "", now, 2))
	if l.pack != nil || roleHeld(b) != nil {
		t.Error("a node's pack of two hosts is taken")
	}
	node := packBy(t, nil, "", now, 5)
	b.takePack(node)
	want("a node's", false, node)
	first, second := packBy(t, &ann, "ann", now.Add(-time.Minute), 5), packBy(t, &ann, "ann", now, 5)
	b.takePack(second)
	want("an operator's", true, second)
	b.takePack(first)
	want("an older one", true, second)
	other := packFor(t, "db", &ann, "ann", now.Add(-time.Hour/2), 5)
	b.takePack(other)
	want("an older one of another role", true, other)
	b.takePack(first)
	want("an older one, after another role's", true, other)
	b.takePack(second)
	want("back in the role", true, second)
	b.takePack(node)
	want("a node's after an operator's", true, second)
	forged := packBy(t, &ann, "ann", now.Add(time.Second), 5)
	forged.Signature.Signature[0] ^= 1
	b.takePack(forged)
	want("a forged one", true, second)
	b.revoked = func([][]byte) error { return errors.New("revoked") }
	b.takePack(packBy(t, &ann, "ann", now.Add(2*time.Second), 5))
	want("one by a revoked operator", true, second)

	l = &learnt{}
	b = learningOf(t, path, ca, l, nil)
	want("after a restart", true, second)

	settled := &learnt{learning: false}
	b = learningOf(t, filepath.Join(t.TempDir(), "learning.json"), ca, settled, nil)
	b.takePack(node)
	if settled.pack != nil {
		t.Error("a host that has learnt takes a node's pack")
	}
	b.takePack(second)
	if settled.pack == nil || !settled.pack.Trusted {
		t.Error("a host that has learnt does not take an operator's pack")
	}
}

// Ensure the fleet's pack stands beside the role's, counts as an operator signed it and from no one else, goes by the
// newest, is there after a restart, and is asked when something is to be forgotten.
func TestTakeFleetPack(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	ann := ca.IssueBetween(link.KindOperator, "ann", "hunter", now.Add(-time.Hour), now.Add(time.Hour))
	path := filepath.Join(t.TempDir(), "learning.json")
	l := &learnt{learning: true}
	b := learningOf(t, path, ca, l, nil)
	fleet := func() []byte { _, sum := b.held(); return sum }
	b.takePack(packFor(t, pack.Fleet, nil, "", now, 50))
	if l.fleet != nil || l.pack != nil || fleet() != nil {
		t.Error("a fleet's pack that nobody signed is taken")
	}
	role, first, second := packBy(t, &ann, "ann", now, 5), packFor(t, pack.Fleet, &ann, "ann", now.Add(-time.Minute), 50), packFor(t, pack.Fleet, &ann, "ann", now, 60)
	b.takePack(role)
	b.takePack(second)
	b.takePack(first)
	if l.fleet == nil || l.fleet.Of != 60 || string(fleet()) != string(pack.Sum(second)) || l.pack.Of != 5 || string(roleHeld(b)) != string(pack.Sum(role)) {
		t.Errorf("in use are %+v and %+v", l.pack, l.fleet)
	}
	l = &learnt{}
	b = learningOf(t, path, ca, l, nil)
	if l.fleet == nil || l.fleet.Of != 60 || l.pack == nil || l.pack.Of != 5 {
		t.Errorf("after a restart %+v and %+v", l.pack, l.fleet)
	}
	b.stored.Pack = nil
	if _, keys := b.matching(&sensorv1.Unlearn{Subject: []byte("/tmp/x")}); len(keys) != 1 || keys[0] != baseline.KeyOf(event.BehaviourExec, "/bin/sh", "/tmp/x") {
		t.Errorf("of the fleet's pack is forgotten %x", keys)
	}
	b.revoked = func([][]byte) error { return errors.New("revoked") }
	b.takePack(packFor(t, pack.Fleet, &ann, "ann", now.Add(time.Second), 70))
	if l.fleet.Of != 60 {
		t.Error("a revoked operator's is taken")
	}
}

// Ensure what is remembered of many roles' packs is bounded, and that the fleet's and the newest stay: else an older one
// could be brought back.
func TestMadeIsBounded(t *testing.T) {
	b := &learningBook{}
	b.made(&sensorv1.Pack{Role: pack.Fleet, MadeAt: 1})
	for i := range 2 * maxMadeRoles {
		b.made(&sensorv1.Pack{Role: fmt.Sprint("role-", i), MadeAt: int64(i + 2)})
	}
	newest := fmt.Sprint("role-", 2*maxMadeRoles-1)
	if n := len(b.stored.Made); n != maxMadeRoles || b.stored.Made[pack.Fleet] != 1 || b.stored.Made[newest] == 0 || b.stored.Made["role-0"] != 0 {
		t.Errorf("%d roles, the fleet's %d, the newest %d, the oldest %d", n, b.stored.Made[pack.Fleet], b.stored.Made[newest], b.stored.Made["role-0"])
	}
}

// Ensure an order to forget is carried out once, by the host that it is for, as who may gave it, with the
// kernel told and the pack's part of it named; and that a failed one says why.
func TestForget(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	issue := func(role string) tls.Certificate {
		return ca.IssueBetween(link.KindOperator, "ann", role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	responder := issue("responder")
	order := func(cert tls.Certificate, id, host, subject string, since int64) *sensorv1.Learning {
		u := &sensorv1.Unlearn{Id: id, ClusterId: linktest.Cluster, Host: host, Operator: "ann", IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Since: since}
		if subject != "" {
			u.Subject = []byte(subject)
		}
		signed, err := pack.SignUnlearn(cert.PrivateKey.(crypto.Signer), cert.Certificate, u)
		if err != nil {
			t.Fatal(err)
		}
		return &sensorv1.Learning{Unlearn: []*sensorv1.SignedUnlearn{signed}}
	}
	path := filepath.Join(t.TempDir(), "learning.json")
	l := &learnt{learning: true, kernel: []uint64{7, 8}}
	var told []uint64
	b := learningOf(t, path, ca, l, func(keys ...uint64) error { told = append(told, keys...); return nil })
	deciding := new(sync.Mutex)
	b.deciding = deciding
	b.unknow = func(keys ...uint64) error {
		if deciding.TryLock() {
			t.Error("the kernel may be told to keep back what is being forgotten")
		}
		told = append(told, keys...)
		return nil
	}
	b.takePack(packBy(t, &responder, "ann", now, 5))
	one := func(l *sensorv1.Learning) *sensorv1.Unlearnt {
		t.Helper()
		answers := b.takeLearning(l)
		if len(answers) != 1 {
			t.Fatalf("%d answers", len(answers))
		}
		return answers[0]
	}
	if got := one(order(responder, "ul-1", "h-1", "/tmp/x", 0)); got.GetId() != "ul-1" || got.GetBehaviours() != 3 || got.GetFailure() != "" {
		t.Errorf("got %v", got)
	}
	if len(told) != 2 || len(l.asked) != 1 || l.asked[0] != baseline.KeyOf(event.BehaviourExec, "/bin/sh", "/tmp/x") {
		t.Errorf("the kernel was told %v, the pack's part is %x", told, l.asked)
	}
	if got := one(order(responder, "ul-1", "h-1", "/tmp/x", 0)); got.GetBehaviours() != 3 || l.forgot != 1 {
		t.Errorf("the same again: %v, carried out %d times", got, l.forgot)
	}
	b = learningOf(t, path, ca, l, func(...uint64) error { return errors.New("no kernel") })
	if got := one(order(responder, "ul-1", "h-1", "/tmp/x", 0)); got.GetBehaviours() != 3 || l.forgot != 1 {
		t.Errorf("the same after a restart: %v, carried out %d times", got, l.forgot)
	}
	for name, bad := range map[string]*sensorv1.Learning{
		"another host's": order(responder, "ul-2", "h-2", "/tmp/x", 0),
		"a hunter's":     order(issue("hunter"), "ul-3", "h-1", "/tmp/x", 0),
	} {
		if got := one(bad); got.GetFailure() == "" || l.forgot != 1 {
			t.Errorf("%s: %v, carried out %d times", name, got, l.forgot)
		}
	}
	if got := b.takeLearning(&sensorv1.Learning{Unlearn: []*sensorv1.SignedUnlearn{{Payload: []byte("x")}}}); len(got) != 0 || l.forgot != 1 {
		t.Errorf("nonsense, which names no order, is answered with %v", got)
	}
	if got := one(order(responder, "ul-4", "h-1", "", 40)); got.GetFailure() == "" {
		t.Errorf("the kernel failed: %v", got)
	}
	b.takeLearning(&sensorv1.Learning{PauseUntil: now.Add(time.Hour).UnixNano()})
	if !l.paused.After(now) {
		t.Errorf("paused until %s", l.paused)
	}
	b.takeLearning(&sensorv1.Learning{})
	if !l.paused.IsZero() {
		t.Errorf("still paused until %s", l.paused)
	}
}
