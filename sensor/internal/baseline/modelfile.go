package baseline

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// What a behaviour has beside its counts is in a bucket of its own, so that a sensor
// which does not know it still reads the counts, and one that finds none begins with
// them: bucket "model", key → version, weight, observed, hours. meta "odds" is what
// detect measured of this host's storylines, which is nothing without the baseline, and
// "told" which findings it told because of that.
var (
	bucketModel = []byte("model")
	keyOdds     = []byte("odds")
	keyOddTold  = []byte("told")
)

const (
	modelVersion = 1
	// maxOdds bounds each of the two that are kept for detect.
	maxOdds = 32 << 10
)

// Odds is what was last kept with KeepOdds; nil: nothing.
func (b *Baseline) Odds() (odds, told []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.odds, b.oddTold
}

// KeepOdds keeps detect's calibration, and what was told by it, with the baseline that it was
// measured with. It is written with the next changes.
func (b *Baseline) KeepOdds(odds, told []byte) error {
	if len(odds) > maxOdds || len(told) > maxOdds {
		return fmt.Errorf("keeping the calibration: %d and %d bytes, at most %d", len(odds), len(told), maxOdds)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.odds, b.oddTold = odds, told
	return nil
}

// Flush writes what is not yet written.
func (b *Baseline) Flush() error { return b.flush() }

func (e *entry) encodeModel() []byte {
	v := make([]byte, 0, 48)
	v = append(v, modelVersion)
	v = binary.BigEndian.AppendUint32(v, math.Float32bits(e.weight))
	v = binary.AppendVarint(v, int64(e.seen))
	v = append(v, e.days)
	v = binary.AppendVarint(v, e.lastHour)
	return append(v, e.hours[:]...)
}

// decodeModel fills what encodeModel wrote; false: it is something else.
func (e *entry) decodeModel(v []byte) bool {
	if len(v) < 6 || v[0] != modelVersion {
		return false
	}
	weight := math.Float32frombits(binary.BigEndian.Uint32(v[1:]))
	r := reader{rest: v[5:]}
	seen := r.varint()
	if r.bad || len(r.rest) < 1 {
		return false
	}
	days := r.rest[0]
	r.rest = r.rest[1:]
	lastHour := r.varint()
	// NaN is neither.
	if r.bad || len(r.rest) != len(hours{}) || !(weight >= 0 && weight <= math.MaxUint32) || seen < 0 {
		return false
	}
	e.weight, e.seen, e.days, e.lastHour = weight, time.Duration(seen), days, lastHour
	copy(e.hours[:], r.rest)
	return true
}

// readModel is called for each entry before it is counted.
func (b *Baseline) readModel(model *bbolt.Bucket, e *entry) {
	if model == nil || !e.decodeModel(model.Get(e.key[:])) {
		e.weight, e.seen = float32(e.windows), b.observed
	}
	e.seen = min(e.seen, b.observed)
}

// writeModel writes what changed of one entry; nil: the entry is gone.
func writeModel(tx *bbolt.Tx, key event.BehaviourKey, value []byte) error {
	model, err := tx.CreateBucketIfNotExists(bucketModel)
	if err != nil {
		return err
	}
	if value == nil {
		return model.Delete(key[:])
	}
	return model.Put(key[:], value)
}
