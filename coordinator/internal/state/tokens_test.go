package state_test

import (
	"fmt"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure ten thousand tokens are the most that wait to be used, and no bound on how
// many hosts enrol in a day.
func TestTokensMakeRoom(t *testing.T) {
	const most = 10_000
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	create := func(i int) *raftv1.Command {
		id := fmt.Sprintf("t-%05d", i)
		return command(&raftv1.CreateToken{TokenId: id, SecretSha256: hash(id), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Expires: now + 50*minute})
	}
	use := func(i int) *raftv1.Command {
		id := fmt.Sprintf("t-%05d", i)
		return command(&raftv1.ConsumeToken{TokenId: id, SecretSha256: hash(id), Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Id: "h-" + id,
			Facts: &sensorv1.HostFacts{Name: id}})
	}
	// One entry for all of them: ten thousand would take as long as the rest of the tests.
	l.index++
	if err := l.db.Update(l.index, func(tx *store.Tx) error {
		for i := range most {
			if result, err := state.Apply(tx, l.index, create(i)); err != nil || result.GetRejected() != "" {
				return fmt.Errorf("token %d: %w, %s", i, err, result.GetMessage())
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	l.want(state.RejectTooManyTokens, create(most))
	l.want("", use(0))
	l.want("", use(1))
	l.want("", create(most))
	l.want(state.RejectBadToken, use(0)) // spent, and forgotten
	l.want("", create(most+1))
	l.want(state.RejectTooManyTokens, create(most+2))
	l.want("", use(most))
}
