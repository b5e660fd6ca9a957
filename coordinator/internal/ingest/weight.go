package ingest

import (
	"fmt"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What a batch of a sensor of ours stays within; proto/DESIGN.md has its limits. Decoded, what is
// empty takes sixty times the memory that it takes on the wire, and every node applies it.
const (
	// maxBatchRecords is a sensor's own limit.
	maxBatchRecords = 512
	// maxItems behaviours, counts and losses are in a batch: a sensor's largest summary has
	// 512 KiB at 48 bytes for each, which is 10,922, and its batches of many have 256 KiB.
	maxItems = 16 << 10
	// maxLossesTold are in a summary. A sensor tells each of its causes once, of some dozens.
	maxLossesTold = 256
)

// What a part of a batch weighs, in bytes of the host's budget: a byte for each 0.2 µs that it
// takes to apply it, which no bytes say of what is empty. So sendRate is a twentieth of what a
// node applies. What honest sensors send has more bytes than it weighs.
const (
	recordWeight  = 64
	itemWeight    = 16      // 2.5 to 3.1 µs
	noteWeight    = 64      // 12 µs
	findingWeight = 192     // 17 µs and the room that it takes
	reportWeight  = 1 << 10 // of an isolation: to 120 µs, rows that stay, and the audit
	// lateWeight is what a finding weighs beside that when its host had maxFindings in the hour: to
	// push out what is stored of it takes a quarter of an hour at a node. A sensor makes two a
	// second at most, which are an eighth of sendRate.
	lateWeight = 16 << 10
	// messageWeight is the least of a message that is no batch: decoding it, and its place in an
	// entry with those of others.
	messageWeight = 256
	// helloWeight is a session's: two entries, a handshake, and what is read for it. A host that
	// loses its sessions all the time begins one a second, and a quarter of sendRate is left.
	helloWeight = 64 << 10
)

// bounded says what is wrong with the numbers in a batch.
func bounded(batch *sensorv1.Batch) error {
	if n := len(batch.GetRecords()); n > maxBatchRecords {
		return fmt.Errorf("%w: %d records, at most %d", state.ErrBatch, n, maxBatchRecords)
	}
	items := 0
	for _, r := range batch.GetRecords() {
		summary := r.GetSummary()
		if n := len(summary.GetLosses()); n > maxLossesTold {
			return fmt.Errorf("%w: %d losses in a summary, at most %d", state.ErrBatch, n, maxLossesTold)
		}
		items += itemsOf(summary)
	}
	if items > maxItems {
		return fmt.Errorf("%w: %d behaviours, counts and losses, at most %d", state.ErrBatch, items, maxItems)
	}
	return nil
}

func itemsOf(s *sensorv1.Summary) int {
	return len(s.GetNewBehaviours()) + len(s.GetDeltas()) + len(s.GetLosses())
}

// weight is what a batch of so many bytes takes from its host's budget.
func weight(batch *sensorv1.Batch, size int) int {
	sum := recordWeight * len(batch.GetRecords())
	for _, r := range batch.GetRecords() {
		switch body := r.GetBody().(type) {
		case *sensorv1.Record_Summary:
			sum += itemWeight * itemsOf(body.Summary)
		case *sensorv1.Record_Finding:
			sum += findingWeight
		case *sensorv1.Record_FlowNote:
			sum += noteWeight
		case *sensorv1.Record_Isolation:
			sum += reportWeight
		}
	}
	return max(size, sum)
}
