package sensor

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

const (
	// maxEvidence bounds the findings that are kept to hold a coordinator's word against.
	maxEvidence = 1024
	// maxVerdicts bounds what waits to be contained; beyond it a verdict is only told.
	maxVerdicts = 64
)

// evidence is this host's own newest findings.
type evidence struct {
	mu    sync.Mutex
	order *list.List // of *sensorv1.Finding, oldest first
	by    map[string]*list.Element
}

func newEvidence() *evidence { return &evidence{order: list.New(), by: map[string]*list.Element{}} }

func (e *evidence) add(f *sensorv1.Finding) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.by[f.GetId()] = e.order.PushBack(f)
	if e.order.Len() > maxEvidence {
		oldest := e.order.Front()
		e.order.Remove(oldest)
		delete(e.by, oldest.Value.(*sensorv1.Finding).GetId()) //nolint:forcetypeassert // only findings are in it
	}
}

func (e *evidence) finding(id string) *sensorv1.Finding {
	e.mu.Lock()
	defer e.mu.Unlock()
	if el := e.by[id]; el != nil {
		return el.Value.(*sensorv1.Finding) //nolint:forcetypeassert // as above
	}
	return nil
}

// decide asks the intent about a finding at once, in the goroutine that made it: the
// first cut of a level-4 verdict to isolate is one store, and what makes it whole
// waits for nobody but the responder.
func (s *Sensor) decide(f *event.Finding) {
	policy, host := s.intent.current()
	finding := uplink.RecordFromFinding(f).GetFinding()
	s.evidence.add(finding)
	for _, proposal := range policy.Propose(finding, host) {
		if proposal.Verdict.Level < intent.Act {
			continue
		}
		order := respond.LocalOrder{
			Action: proposal.Action, Target: proposal.Target, Evidence: []string{finding.GetId()},
			Lease:         time.Duration(intent.LeaseSeconds(policy.Intent())) * time.Second, //nolint:gosec // a day at most, by Compile
			IntentVersion: policy.Version(), Policies: proposal.Verdict.Policies,
			Reason: fmt.Sprintf("finding %s, %q: %s", finding.GetId(), finding.GetTitle(), proposal.Why),
		}
		if order.Action == sensorv1.Action_ACTION_ISOLATE {
			if s.responder.CutNow() {
				order.CutAfter = time.Since(f.Time)
			}
		}
		select {
		case s.verdicts <- order:
		default:
			s.losses.add("verdicts", "full", 1)
			s.log.Error("a verdict is not carried out: too many wait", "finding", finding.GetId(), "action", grant.Word(order.Action))
		}
	}
}

// contain carries verdicts out, one at a time, in their order. It also ends the first
// cut of one that was not queued.
func (s *Sensor) contain(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case order := <-s.verdicts:
			status := s.responder.Contain(ctx, order)
			s.log.Warn("acted on own evidence", "action", grant.Word(order.Action), "operation", status.GetOperation(),
				"state", status.GetState().String(), "evidence", strings.Join(order.Evidence, ","), "intent", order.IntentVersion)
		}
	}
}

// corroborates says whether this host's own findings support what the coordinator's
// automation asks for: the same action on the same target, by the intent held here,
// at a level at which people need not agree first.
func (s *Sensor) corroborates(g *sensorv1.Grant) error {
	policy, host := s.intent.current()
	why := errors.New("it names no finding of this host")
	for _, id := range g.GetEvidence() {
		finding := s.evidence.finding(id)
		if finding == nil {
			why = fmt.Errorf("finding %.64q is not one that this host remembers", id)
			continue
		}
		why = fmt.Errorf("no action like it follows from finding %s", id)
		for _, proposal := range policy.Propose(finding, host) {
			if proposal.Action != g.GetAction() || !sameTarget(proposal.Target, g.GetTarget()) {
				continue
			}
			if proposal.Verdict.Level >= intent.Veto {
				return nil
			}
			why = fmt.Errorf("by version %d of the intent %s is at level %d for finding %s", policy.Version(), grant.Word(g.GetAction()), proposal.Verdict.Level, id)
			if proposal.Verdict.Held != "" {
				why = fmt.Errorf("%w: %s", why, proposal.Verdict.Held)
			}
		}
	}
	return why
}

func sameTarget(a, b *sensorv1.Target) bool {
	if a == nil {
		a = &sensorv1.Target{}
	}
	if b == nil {
		b = &sensorv1.Target{}
	}
	return proto.Equal(a, b)
}
