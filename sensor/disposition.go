package sensor

import (
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// judged is what a person's word about findings changes: how odd an ordinary day is, and what of
// the baseline is ordinary by that word. Both are bounded there.
type judged interface {
	// About are the behaviours that findings are about which nobody has judged; Dispose judges them.
	About(findings []string) []event.BehaviourKey
	Dispose(findings []string, malicious bool)
	Vouch(keys ...event.BehaviourKey) int
	// Keep writes what they changed.
	Keep() error
}

// judgedBy are the stages that know of it.
type judgedBy struct {
	*detect.Engine
	*baseline.Baseline
}

func (j judgedBy) Keep() error {
	return errors.Join(j.KeepOdds(j.Engine.Odds(), j.Told()), j.Flush())
}

// dispose takes what a person said of this host's findings, once. What was benign may be learnt, and what
// was malicious is forgotten as far as it was.
func (b *learningBook) dispose(signed *sensorv1.SignedDisposition) *sensorv1.Unlearnt {
	d, _, err := pack.VerifyDisposition(signed, b.roots(), b.cluster, time.Now())
	if err = b.addressed(d.GetHost(), signed.GetSignature(), err); err != nil {
		b.log.Error("what a person said of findings is not taken", "error", err)
		named, _ := pack.DecodeDisposition(signed.GetPayload()) // nil where it cannot be read
		return refused(named.GetId(), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if earlier := b.answered(asDisposition, d.GetId()); earlier != nil {
		return earlier
	}
	about, changed := b.judged.About(d.GetFindings()), 0
	switch {
	case len(about) == 0:
	case d.GetMalicious():
		none := func(event.Behaviour, time.Time) bool { return false }
		if changed, _, err = b.unlearn(none, about); err != nil {
			b.log.Error("the kernel still keeps back what was malicious", "error", err)
			return refused(d.GetId(), fmt.Errorf("telling the kernel: %w", err))
		}
	default:
		changed = b.judged.Vouch(about...)
	}
	b.judged.Dispose(d.GetFindings(), d.GetMalicious())
	b.log.Info("a person said what findings were", "incident", d.GetIncident(), "operator", d.GetOperator(), "malicious", d.GetMalicious(),
		"findings", len(d.GetFindings()), "known", len(about), "behaviours", changed)
	if err := b.judged.Keep(); err != nil {
		b.log.Error("what a person said of findings is not written yet; it is with the next changes", "error", err)
	}
	return b.answer(asDisposition, d.GetId(), len(about))
}
