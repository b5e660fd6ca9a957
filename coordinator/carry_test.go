package coordinator_test

import (
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// carrying opens a session of a host with an address, of a sensor that takes marks or is older.
func carrying(s *testSensor, addr, address string, carries bool) (*testSession, []byte) {
	s.t.Helper()
	session, err := s.dial(addr)
	if err != nil {
		s.t.Fatalf("dialling: %v", err)
	}
	boot := newBoot()
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion, Boot: boot,
		Carries: carries, Facts: &sensorv1.HostFacts{Name: s.id, Addresses: []string{address + "/24"}}}}})
	if m := session.read(); m.GetWelcome() == nil {
		s.t.Fatalf("want a welcome, got %v", m)
	}
	return session, boot
}

// Ensure a suspect connection is told to the host at its other end within two seconds, whichever node
// that has its session at, with exactly its addresses and ports; and not to an older sensor, and not
// on the word of a host that is no end of it.
func TestCarriedMarkReachesTheOtherHost(t *testing.T) {
	c := startCluster(t, 3)
	a, b, old, liar := c.enrol(0), c.enrol(0), c.enrol(0), c.enrol(0)
	at := func(n int) string { return c.nodes[n].cfg.Advertise }
	from, boot := carrying(a, at(0), "10.0.0.1", true)
	to, _ := carrying(b, at(1), "10.0.0.2", true)
	older, oldBoot := carrying(old, at(2), "10.0.0.3", false)
	lies, liarBoot := carrying(liar, at(2), "10.0.0.4", true)

	note := func(server byte) *sensorv1.Record {
		return &sensorv1.Record{Sequence: 1, Time: time.Now().UnixNano(), Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: "7.1",
			Process: &sensorv1.Process{Pid: 7, Image: []byte("/usr/bin/ssh")}, Flow: &sensorv1.Flow{Protocol: 6, Local: []byte{10, 0, 0, 1}, LocalPort: 40001,
				Remote: []byte{10, 0, 0, server}, RemotePort: 22, Opened: time.Now().UnixNano()}}}}
	}
	// The liar speaks first: were it believed, its word would come before a's.
	lies.batch(liarBoot, 0, note(2))
	lies.wantAck(1)
	started := time.Now()
	from.batch(boot, 0, note(2))
	from.wantAck(1)
	got := to.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes() == nil }).GetTaint()
	took := time.Since(started)
	if got == nil || got.GetStoryline() != a.id+"/7.1" || got.GetClientPort() != 40001 || got.GetServerPort() != 22 || string(got.GetClient()) != "\x0a\x00\x00\x01" ||
		string(got.GetServer()) != "\x0a\x00\x00\x02" || got.GetProtocol() != 6 || got.GetOpened() == 0 {
		t.Fatalf("got %v", got)
	}
	t.Logf("told after %s", took.Round(time.Millisecond))
	if took > 2*time.Second {
		t.Errorf("told after %s, want 2 s at most", took)
	}
	second := note(3)
	second.Sequence = 2
	from.batch(boot, 1, second)
	from.wantAck(2)
	older.batch(oldBoot, 0, note(9))
	older.wantAck(1)
	for who, session := range map[string]*testSession{"a host that somebody lied about": to, "an older sensor": older} {
		_ = session.stream.SetReadDeadline(time.Now().Add(time.Second))
		for {
			m := &sensorv1.CoordinatorMessage{}
			if err := frame.Read(session.stream, m); err != nil {
				break // it was told no more
			}
			if m.GetTaint() != nil {
				t.Errorf("%s was told %v", who, m)
			}
		}
	}
}
