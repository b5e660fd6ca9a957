package coordinator_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure findings of a host at any node are investigated with nobody asking, by what its own
// recorder answers: a weak one is closed and makes no incident, a grave one is an incident
// that shows its investigation, and what people say of it is kept with it.
func TestInvestigate(t *testing.T) {
	c := startCluster(t, 3)
	boot := bytes.Repeat([]byte{7}, 16)
	answers := func(s *testSession, q *sensorv1.Question) {
		if q.GetCancel() {
			return
		}
		s.reply(&sensorv1.Answer{Id: q.GetId(), Rows: rowsOf(3), Done: true, Scanned: 10, CoveredFrom: 5})
	}
	for i := range 3 {
		host := c.enrol(0)
		session := host.asked(c.nodes[i].cfg.Advertise, hunt.Version, answers)
		process := &sensorv1.Process{Pid: 7, Image: []byte("/usr/bin/nc"), User: "www"}
		session.batch(boot, 0,
			finding(1, &sensorv1.Finding{Kind: "rule", RuleId: "odd", Title: "Odd program", Severity: "low", Score: 60, Storyline: "7.1", Process: process}),
			finding(2, &sensorv1.Finding{Kind: "rule", RuleId: "odd", Title: "Odd program", Severity: "low", Score: 70, Storyline: "7.1", Process: process}),
			finding(3, &sensorv1.Finding{Kind: "rule", RuleId: "shell", Title: "Reverse shell", Severity: "high", Score: 90, Storyline: "8.1", Process: process}))
		for storyline, want := range map[string]string{"7.1": "benign", "8.1": "incident"} {
			var in *raftv1.Investigation
			eventually(t, "the storyline to be investigated", func() (err error) {
				if in, err = c.api.Investigation(t.Context(), host.id, storyline); err == nil && in.GetAnswered() != 3 {
					err = errors.New("the recorder was not asked")
				}
				return err
			})
			if in.GetVerdict() != want {
				t.Errorf("storyline %s: %v", storyline, in)
			}
			if took := time.Duration(in.GetEnded() - in.GetBegan()); took > 30*time.Second || took < 0 {
				t.Errorf("it took %s", took)
			}
		}
		var incident string
		eventually(t, "an incident with its investigation", func() error {
			for inc, err := range c.incidents() {
				if err != nil {
					return err
				}
				if inc.GetHosts()[0] != host.id {
					continue
				}
				res, err := c.api.Incident(t.Context(), inc.GetId())
				if err != nil {
					return err
				}
				if len(res.GetInvestigations()) != 1 || res.GetInvestigations()[0].GetStoryline() != "8.1" {
					return fmt.Errorf("incident %s shows %d investigations of storylines %v", inc.GetId(), len(res.GetInvestigations()), inc.GetStorylines())
				}
				incident = inc.GetId()
				return nil
			}
			return errors.New("no incident")
		})
		if _, err := c.api.CloseIncident(t.Context(), closing(incident, "benign")); err != nil {
			t.Fatal(err)
		}
		if in, err := c.api.Investigation(t.Context(), host.id, "8.1"); err != nil || in.GetDisposition() != "benign" || in.GetJudgedBy() != "operator:admin" {
			t.Errorf("judged: %v, %v", in, err)
		}
	}
	n := 0
	for range c.incidents() {
		n++
	}
	if n != 3 {
		t.Errorf("%d incidents of 3 grave findings and 6 weak ones", n)
	}
}

func (c *testCluster) incidents() iter.Seq2[*raftv1.Incident, error] {
	return c.api.Incidents(c.t.Context(), &operatorv1.ListIncidentsRequest{})
}

func closing(incident, as string) *operatorv1.CloseIncidentRequest {
	return &operatorv1.CloseIncidentRequest{Id: incident, Disposition: as, Reason: "known", IdempotencyKey: rand.Text()}
}
