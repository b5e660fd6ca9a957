package state

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	bootBytes     = 16
	maxRecords    = 10_000
	maxID         = 64
	maxKeyBytes   = 64
	maxName       = 64 << 10
	maxLossName   = 64
	maxUnknownIDs = 10
)

// ErrBatch is what CheckBatch wraps: the sensor broke the protocol.
var ErrBatch = errors.New("batch is malformed")

// CheckBatch says what is wrong with a batch before it is proposed: Apply stores
// nothing of a batch that fails here, and answers a gap.
func CheckBatch(b *sensorv1.Batch) error {
	if len(b.GetBoot()) != bootBytes {
		return fmt.Errorf("%w: boot has %d bytes, want %d", ErrBatch, len(b.GetBoot()), bootBytes)
	}
	if len(b.GetRecords()) > maxRecords {
		return fmt.Errorf("%w: %d records, at most %d", ErrBatch, len(b.GetRecords()), maxRecords)
	}
	last := b.GetPrev()
	for _, r := range b.GetRecords() {
		if r.GetSequence() <= last {
			return fmt.Errorf("%w: sequence %d follows %d", ErrBatch, r.GetSequence(), last)
		}
		last = r.GetSequence()
	}
	if last > math.MaxInt64 {
		return fmt.Errorf("%w: sequence %d is too large", ErrBatch, last)
	}
	return nil
}

// ingest stores the batches of several hosts. A batch of an unknown host is not
// acknowledged: it has no HostAck in the result. When no host at all was known,
// the command is rejected.
func (a *applier) ingest(in *raftv1.Ingest) (*raftv1.Result, error) {
	result := &raftv1.Result{}
	var unknown []string
	for _, hb := range in.GetBatches() {
		host, ok, err := a.tx.HostNumber(hb.GetHost())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if !ok {
			if len(unknown) < maxUnknownIDs {
				unknown = append(unknown, hb.GetHost())
			}
			continue
		}
		ack, err := a.batch(host, hb)
		if err != nil {
			return nil, fmt.Errorf("storing batch of %s: %w", hb.GetHost(), err)
		}
		result.Acks = append(result.Acks, ack)
	}
	if len(unknown) > 0 {
		result.Message = "unknown hosts: " + strings.Join(unknown, ", ") + "; enrol them again"
		if len(result.GetAcks()) == 0 {
			result.Rejected = RejectUnknownHost
		}
	}
	return result, nil
}

// batch stores what is new of one batch.
//
// A batch says: these are all the records that my stream holds after prev, up
// to its last. So it can be applied at any position that is not before prev:
// the records above the position are exactly what follows it. At a position
// before prev something may be missing, and nothing is stored.
func (a *applier) batch(host int64, hb *raftv1.HostBatch) (*raftv1.HostAck, error) {
	b := hb.GetBatch()
	position, err := a.tx.Position(host, b.GetBoot())
	if err != nil {
		return nil, err
	}
	ack := &raftv1.HostAck{Host: hb.GetHost(), Boot: b.GetBoot(), Sequence: position}
	if CheckBatch(b) != nil || b.GetPrev() > position {
		ack.Gap = true
		return ack, nil
	}
	if err := a.tx.Seen(host, a.cmd.GetTime()); err != nil {
		return nil, err
	}
	for _, r := range b.GetRecords() {
		if r.GetSequence() <= position {
			continue
		}
		if err := a.record(host, hb.GetHost(), r); err != nil {
			return nil, err
		}
		ack.Sequence = r.GetSequence()
	}
	if ack.GetSequence() == position {
		return ack, nil
	}
	return ack, a.tx.SetPosition(host, b.GetBoot(), ack.GetSequence(), a.index)
}

func (a *applier) record(host int64, id string, r *sensorv1.Record) error {
	switch body := r.GetBody().(type) {
	case *sensorv1.Record_Summary:
		return a.summary(host, body.Summary)
	case *sensorv1.Record_Finding:
		f := body.Finding
		if f.GetId() == "" || len(f.GetId()) > maxID {
			// Never lose a finding for its name.
			f.Id = fmt.Sprintf("%s-%d-%d", id, a.index, r.GetSequence())
		}
		if f.GetTime() == 0 {
			f.Time = r.GetTime()
		}
		stored, err := a.tx.AddFinding(host, a.index, a.cmd.GetTime(), f)
		if err != nil || stored {
			return err
		}
		return a.lost(host, "duplicate-finding-id")
	case *sensorv1.Record_Isolation:
		return a.isolationStatus(host, id, body.Isolation)
	case *sensorv1.Record_FlowNote:
		return a.tx.AddFlow(host, a.index, r.GetTime(), body.FlowNote)
	}
	// A newer sensor's record: its sequence is taken, and the loss is stated.
	return a.lost(host, "unknown-record")
}

func (a *applier) lost(host int64, cause string) error {
	return a.tx.AddLoss(host, &sensorv1.Loss{Where: "store", Cause: cause, Count: 1})
}

func (a *applier) summary(host int64, s *sensorv1.Summary) error {
	found, deltas := s.GetNewBehaviours(), s.GetDeltas()
	oversized := func(b *sensorv1.Behaviour) bool {
		return len(b.GetKey()) > maxKeyBytes || len(b.GetSubject()) > maxName || len(b.GetObject()) > maxName
	}
	counted := func(d *sensorv1.BehaviourDelta) bool { return len(d.GetKey()) > maxKeyBytes }
	told := len(found) + len(deltas)
	found, deltas = slices.DeleteFunc(slices.Clone(found), oversized), slices.DeleteFunc(slices.Clone(deltas), counted)
	for range told - len(found) - len(deltas) {
		if err := a.lost(host, "oversized-behaviour"); err != nil {
			return err
		}
	}
	if err := a.tx.Summarise(host, found, deltas); err != nil {
		return fmt.Errorf("storing behaviours: %w", err)
	}
	for _, l := range s.GetLosses() {
		if len(l.GetWhere()) > maxLossName || len(l.GetCause()) > maxLossName {
			l = &sensorv1.Loss{Where: "other", Cause: "other", Count: l.GetCount()}
		}
		if err := a.tx.AddLoss(host, l); err != nil {
			return fmt.Errorf("adding losses: %w", err)
		}
	}
	if s.GetHealth() == nil {
		return nil
	}
	if err := a.tx.SetHostIntent(host, s.GetHealth().GetIntentVersion()); err != nil {
		return fmt.Errorf("storing intent version: %w", err)
	}
	return a.tx.SetHealth(host, s.GetHealth())
}
