package store

import (
	"fmt"
	"testing"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure of a host those investigations are kept that were looked at last: one of a service that has run for months, and
// is found again today, outlives a thousand of yesterday.
func TestInvestigationsKept(t *testing.T) {
	db := webHosts(t, 2)
	put := func(host int64, storyline string) {
		t.Helper()
		index := db.AppliedIndex() + 1
		if err := db.Update(index, func(tx *Tx) error {
			return tx.PutInvestigation(index, host, &raftv1.Investigation{Storyline: storyline, Verdict: "watching", Ended: 1})
		}); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(host int, storyline string) bool {
		in, err := db.Investigation(t.Context(), fmt.Sprintf("h-%d", host-1), storyline)
		return err == nil && in != nil
	}
	put(2, "other")
	put(1, "service")
	for i := range maxInvestigationsOfHost - 1 {
		put(1, fmt.Sprint("job-", i))
	}
	put(1, "service")
	put(1, "job-new")
	if !kept(1, "service") || kept(1, "job-0") || !kept(1, "job-1") || !kept(1, "job-new") || !kept(2, "other") {
		t.Errorf("kept: service %v, the oldest job %v, the next %v, the newest %v, another host's %v",
			kept(1, "service"), kept(1, "job-0"), kept(1, "job-1"), kept(1, "job-new"), kept(2, "other"))
	}
}
