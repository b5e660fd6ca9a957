package coordinator_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure hosts that vanish together are one finding, told by whichever node leads, and
// that one which says goodbye is answered when the log has it, and is no finding.
func TestManyVanish(t *testing.T) {
	const hosts = 12
	c := startCluster(t, 3)
	stopped := c.enrol(0)
	bye, _ := stopped.open(c.nodes[0].cfg.Advertise, newBoot())
	bye.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Goodbye{Goodbye: &sensorv1.Goodbye{}}})
	for { // node lists may come first
		if err := frame.Read(bye.stream, &sensorv1.CoordinatorMessage{}); err != nil {
			break
		}
	}
	var closed *link.ClosedError
	if err := bye.conn.Err(); err != nil && (!errors.As(err, &closed) || closed.Reason != "noted") {
		t.Errorf("the goodbye was answered by %v", err)
	}
	eventually(t, "the host to be shown as stopped", func() error {
		res, err := c.api.Host(t.Context(), stopped.id)
		if err == nil && res.GetHost().GetState() != "stopped" {
			err = fmt.Errorf("state %q", res.GetHost().GetState())
		}
		return err
	})

	var sessions []*testSession
	for i := range hosts {
		s, _ := c.enrol(i%3).open(c.nodes[i%3].cfg.Advertise, newBoot())
		sessions = append(sessions, s)
	}
	began := time.Now()
	for _, s := range sessions {
		_ = s.conn.CloseWithReason(link.CodeOK, "")
	}
	silences := func() (all []*operatorv1.FindingRow, err error) {
		for f, err := range c.api.Findings(t.Context(), &operatorv1.ListFindingsRequest{}) {
			if err != nil {
				return nil, err
			}
			if f.GetFinding().GetKind() == "silent" {
				all = append(all, f)
			}
		}
		return all, nil
	}
	eventually(t, "the silence to be told", func() error {
		all, err := silences()
		if err == nil && len(all) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	t.Logf("told after %s", time.Since(began).Round(time.Millisecond))
	all, err := silences()
	if err != nil || len(all) != 1 || all[0].GetFinding().GetTitle() != "12 hosts fell silent at once" {
		t.Errorf("told: %v, %v; want one finding about all", all, err)
	}
	status, err := c.api.Status(t.Context())
	if err != nil || status.GetHostsSilent() != hosts || status.GetHostsStopped() != 1 {
		t.Errorf("status: %v, %v", status, err)
	}
}

// Ensure sensors that hang up as soon as they have said hello, while their sessions wait for one
// entry of the log, are shown as gone.
func TestSensorsThatHangUpAtOnce(t *testing.T) {
	const hosts = 8
	c := startCluster(t, 3)
	var sensors []*testSensor
	for range hosts {
		sensors = append(sensors, c.enrol(0))
	}
	for range 3 {
		for i, s := range sensors {
			session, err := s.dial(c.nodes[1].cfg.Advertise)
			if err != nil {
				t.Fatal(err)
			}
			session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
				Protocol: frame.ProtocolVersion, Boot: newBoot(), Facts: &sensorv1.HostFacts{Name: fmt.Sprint("web-", i)}}}})
			if i%2 == 0 { // the others' sessions are proposed perhaps
				<-time.After(20 * time.Millisecond)
			}
			session.hangUp()
		}
	}
	last, _ := c.enrol(0).open(c.nodes[1].cfg.Advertise, newBoot()) // what came before it is in the log
	eventually(t, "all to be gone but the last", func() error {
		online := 0
		for h, err := range c.api.Hosts(t.Context(), nil, 0) {
			if err != nil {
				return err
			}
			if h.GetState() == "online" {
				online++
			}
		}
		if online != 1 {
			return fmt.Errorf("%d are online", online)
		}
		return nil
	})
	last.hangUp()
}

// Ensure a host's session ends where it was when it begins at another node, and is told as no
// silence: acks and orders come from one place.
func TestTakeoverByAnotherNode(t *testing.T) {
	c := startCluster(t, 3)
	sensor, boot := c.enrol(0), newBoot()
	for i := range 4 {
		first, _ := sensor.open(c.nodes[i%3].cfg.Advertise, boot)
		second, _ := sensor.open(c.nodes[(i+1)%3].cfg.Advertise, boot)
		var closed *link.ClosedError
		for err := error(nil); err == nil; {
			if err = frame.Read(first.stream, &sensorv1.CoordinatorMessage{}); err != nil && (!errors.As(err, &closed) || closed.Code != link.CodeSuperseded) {
				t.Errorf("first session: got %v", err)
			}
		}
		second.batch(boot, uint64(i), finding(uint64(i)+1, &sensorv1.Finding{Storyline: "1.1"}))
		second.wantAck(uint64(i) + 1)
	}
	host, err := c.api.Host(t.Context(), sensor.id)
	if err != nil || host.GetHost().GetState() != "online" || host.GetHost().GetNode() != c.nodes[1].cfg.ID {
		t.Errorf("got %v, %v", host, err)
	}
}
