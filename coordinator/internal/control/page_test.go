package control

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// hostsUpTo applies entries to a node's state, up to an index; each enrols a host.
func hostsUpTo(t *testing.T, db *store.DB, index uint64) {
	t.Helper()
	for i := db.AppliedIndex() + 1; i <= index; i++ {
		if err := db.Update(i, func(tx *store.Tx) error { return tx.AddHost(fmt.Sprintf("h-%d", i), &sensorv1.HostFacts{}, nil, 1) }); err != nil {
			t.Fatal(err)
		}
	}
}

// Ensure a page that is asked of a node which is behind the one before is answered when it has caught
// up, and refused so that another node is asked when it does not: never with rows left out.
func TestPageOfANodeThatIsBehind(t *testing.T) {
	ahead, behind := &Server{cfg: Config{DB: emptyStore(t), Now: time.Now}}, &Server{cfg: Config{DB: emptyStore(t), Now: time.Now}}
	hostsUpTo(t, ahead.cfg.DB, 6)
	hostsUpTo(t, behind.cfg.DB, 3)
	first, err := ahead.ListHosts(t.Context(), &operatorv1.ListHostsRequest{PageSize: 2})
	if err != nil || len(first.GetHosts()) != 2 {
		t.Fatalf("first page: %v, %v", first, err)
	}
	ask := &operatorv1.ListHostsRequest{PageSize: 10, PageToken: first.GetPageToken()}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if res, err := behind.ListHosts(soon, ask); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a node that is behind answers %d hosts, %v", len(res.GetHosts()), err)
	}
	answered := make(chan int, 1)
	go func() {
		res, err := behind.ListHosts(t.Context(), ask)
		if err != nil {
			t.Error(err)
		}
		answered <- len(res.GetHosts())
	}()
	hostsUpTo(t, behind.cfg.DB, 6)
	if got := <-answered; got != 4 {
		t.Errorf("the second page has %d hosts, want 4", got)
	}
	for _, token := range []string{"2.!", "!.2", "!"} {
		if _, err := ahead.ListHosts(t.Context(), &operatorv1.ListHostsRequest{PageToken: token}); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("token %q: %v", token, err)
		}
	}
}
