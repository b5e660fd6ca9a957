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
