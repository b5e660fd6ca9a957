package respond

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// containRecord is all of the containments that must survive the process.
type containRecord struct {
	// Serial rises with each save: of two copies the newer counts.
	Serial uint64         `json:"serial"`
	Active []*containment `json:"active,omitempty"`
	// Done answers a grant that is delivered again after its end.
	Done []outcome `json:"done,omitempty"`
	// LocalEnds are told to the cluster when a sensor starts.
	LocalEnds []*sensorv1.IsolationStatus `json:"local_ends,omitempty"`
}

// outcome is what came of a grant that is over.
type outcome struct {
	Nonce  []byte `json:"nonce"`
	Digest []byte `json:"digest"`
	Status []byte `json:"status"` // sensorv1.IsolationStatus
	Until  int64  `json:"until"`  // Unix ns
}

// maxOutcomes is how many ended ones are remembered; the oldest go first, and
// their grants are refused as replays from then on.
const maxOutcomes = 256

func (r *containRecord) done(o outcome, now time.Time) {
	var kept []outcome
	for _, old := range r.Done {
		if old.Until > now.UnixNano() {
			kept = append(kept, old)
		}
	}
	if len(kept) >= maxOutcomes {
		kept = kept[len(kept)-maxOutcomes+1:]
	}
	kept = append(kept, o)
	r.Done = kept
}

const (
	containMagic = "vedette-containments-1"
	// maxContainBytes is beyond any file that save writes: 256 containments and as
	// many outcomes, each with a target and a state of some KiB.
	maxContainBytes = 64 << 20
)

// containFile is the record twice, the second written after the first is on disk:
// whatever happens to one, the other is what was saved last or just before.
type containFile struct{ copies [2]sealed }

func newContainFile(dir string) containFile {
	var f containFile
	for i, name := range []string{"containments", "containments.copy"} {
		f.copies[i] = sealed{path: filepath.Join(dir, name), magic: containMagic, max: maxContainBytes}
	}
	return f
}

func (f containFile) save(r *containRecord) error {
	r.Serial++
	if err := f.copies[0].save(r); err != nil {
		return fmt.Errorf("saving containments: %w", err)
	}
	if err := f.copies[1].save(r); err != nil {
		return fmt.Errorf("saving the copy of containments: %w", err)
	}
	return nil
}

// load is the newer of the good copies. damaged says what was wrong with the
// other; err that no copy is good though there was one.
func (f containFile) load() (record containRecord, damaged, err error) {
	found, missing := false, 0
	var problems []error
	for _, one := range f.copies {
		var r containRecord
		err := one.load(&r)
		if err == nil {
			err = r.sane()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing++
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", filepath.Base(one.path), err))
			_ = os.Rename(one.path, one.path+".damaged")
		case !found || r.Serial > record.Serial:
			record, found = r, true
		}
	}
	damaged = errors.Join(problems...)
	if !found && damaged != nil {
		return containRecord{}, nil, damaged
	}
	return record, damaged, nil
}

func (r *containRecord) sane() error {
	if len(r.Active) > MaxContainments || len(r.Done) > maxOutcomes {
		return fmt.Errorf("%w: %d containments and %d outcomes", errUnsealed, len(r.Active), len(r.Done))
	}
	for _, c := range r.Active {
		if c == nil || c.Length > MaxLease || (c.Phase != phaseTesting && c.Phase != phaseApplied && c.Phase != phaseEnding) {
			return fmt.Errorf("%w: a containment without sense", errUnsealed)
		}
	}
	return nil
}
