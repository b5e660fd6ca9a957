package sensor

import (
	"crypto"
	"crypto/tls"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// spoken notes what a person's word changed.
type spoken struct {
	findings  []string
	malicious bool
	disposed  int
	vouched   []event.BehaviourKey
	kept      int
}

func (s *spoken) Keep() error { s.kept++; return nil }

func (s *spoken) Dispose(findings []string, malicious bool) {
	s.findings, s.malicious = findings, malicious
	s.disposed++
}

func (s *spoken) About(findings []string) []event.BehaviourKey {
	if slices.Contains(findings, "f-1") {
		return []event.BehaviourKey{{7}}
	}
	return nil
}

func (s *spoken) Vouch(keys ...event.BehaviourKey) int {
	s.vouched = append(s.vouched, keys...)
	return len(keys)
}

// Ensure what a person said of findings is taken once, from who may say it and by the host that it is for; that what
// was benign is spoken for, and what was malicious forgotten here and in the kernel.
func TestTakeDisposition(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	issue := func(role string) tls.Certificate {
		return ca.IssueBetween(link.KindOperator, "hal", role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	hunter := issue("hunter")
	said := func(cert tls.Certificate, id, host string, malicious bool, findings ...string) *sensorv1.Learning {
		signed, err := pack.SignDisposition(cert.PrivateKey.(crypto.Signer), cert.Certificate, &sensorv1.Disposition{Id: id, ClusterId: linktest.Cluster, Host: host,
			Incident: "inc-1", Malicious: malicious, Findings: findings, Operator: "hal", IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano()})
		if err != nil {
			t.Fatal(err)
		}
		return &sensorv1.Learning{Dispositions: []*sensorv1.SignedDisposition{signed}}
	}
	path := filepath.Join(t.TempDir(), "learning.json")
	l, s := &learnt{kernel: []uint64{7}}, &spoken{}
	var told []uint64
	begin := func() *learningBook {
		b := learningOf(t, path, ca, l, func(keys ...uint64) error { told = append(told, keys...); return nil })
		b.judged = s
		return b
	}
	b := begin()
	one := func(l *sensorv1.Learning) *sensorv1.Unlearnt {
		t.Helper()
		answers := b.takeLearning(l)
		if len(answers) != 1 {
			t.Fatalf("%d answers", len(answers))
		}
		return answers[0]
	}
	if got := one(said(hunter, "dsp-1", "h-1", false, "f-1", "f-2")); got.GetId() != "dsp-1" || got.GetBehaviours() != 1 || got.GetFailure() != "" {
		t.Errorf("benign: %v", got)
	}
	if s.malicious || s.kept != 1 || len(s.findings) != 2 || !slices.Equal(s.vouched, []event.BehaviourKey{{7}}) || l.forgot != 0 {
		t.Errorf("benign: %+v, forgot %d times", s, l.forgot)
	}
	for range 2 {
		if got := one(said(hunter, "dsp-1", "h-1", false, "f-1")); got.GetBehaviours() != 1 || s.disposed != 1 {
			t.Errorf("the same again: %v, taken %d times", got, s.disposed)
		}
		b = begin() // and after a restart
	}
	if got := one(said(hunter, "dsp-2", "h-1", true, "f-1")); got.GetBehaviours() != 1 || !s.malicious {
		t.Errorf("malicious: %v, %+v", got, s)
	}
	if l.forgot != 1 || !slices.Equal(l.asked, []event.BehaviourKey{{7}}) || !slices.Equal(told, []uint64{7}) || len(s.vouched) != 1 {
		t.Errorf("malicious: forgot %v, the kernel was told %v, spoken for %v", l.asked, told, s.vouched)
	}
	if got := one(said(hunter, "dsp-3", "h-1", true, "f-9")); got.GetBehaviours() != 0 || got.GetFailure() != "" || l.forgot != 1 {
		t.Errorf("of findings that are not known: %v", got)
	}
	taken := s.disposed
	for name, bad := range map[string]*sensorv1.Learning{
		"another host's": said(hunter, "dsp-4", "h-2", false, "f-1"),
		"a viewer's":     said(issue("viewer"), "dsp-5", "h-1", false, "f-1"),
	} {
		if got := one(bad); got.GetFailure() == "" || s.disposed != taken {
			t.Errorf("%s: %v, taken %d times", name, got, s.disposed-taken)
		}
	}
	if got := b.takeLearning(&sensorv1.Learning{Dispositions: []*sensorv1.SignedDisposition{{Payload: []byte("x")}}}); len(got) != 0 || s.disposed != taken {
		t.Errorf("nonsense, which names no disposition, is answered with %v", got)
	}
	works := b.unknow
	b.unknow = func(...uint64) error { return errors.New("no kernel") }
	for range 2 { // and is to be carried out still
		if got := one(said(hunter, "dsp-7", "h-1", true, "f-1")); got.GetFailure() == "" || s.disposed != taken {
			t.Errorf("the kernel failed: %v", got)
		}
	}
	b.unknow = works
	if got := one(said(hunter, "dsp-7", "h-1", true, "f-1")); got.GetFailure() != "" || got.GetBehaviours() != 1 {
		t.Errorf("the kernel works again: %v", got)
	}
	taken = s.disposed
	b.revoked = func([][]byte) error { return errors.New("revoked") }
	if got := one(said(hunter, "dsp-6", "h-1", false, "f-1")); got.GetFailure() == "" || s.disposed != taken {
		t.Errorf("a revoked operator's: %v", got)
	}
}
