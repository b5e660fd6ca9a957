package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (n *node) ListFindings(_ context.Context, r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
	return n.list(r)
}

// rows is a list of so many findings, three a page, the token the first of the next one.
func rows(all int) func(*operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
	return func(r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
		from, _ := strconv.Atoi(r.GetPageToken())
		res := &operatorv1.ListFindingsResponse{}
		for i := from; i < min(from+3, all); i++ {
			res.Findings = append(res.Findings, &operatorv1.FindingRow{Finding: &sensorv1.Finding{Id: fmt.Sprintf("f-%d", i)}})
		}
		if from+3 < all {
			res.PageToken = strconv.Itoa(from + 3)
		}
		return res, nil
	}
}

// dies is a node that answers from its first page on so many, and then is gone.
func dies(n *node, pages int64, list func(*operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error)) {
	n.list = func(r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
		if n.calls.Add(1) > pages {
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("stopping"))
		}
		return list(r)
	}
}

func listed(ctx context.Context, c *client.Client) (ids []string, err error) {
	for row, err := range c.Findings(ctx, &operatorv1.ListFindingsRequest{}) {
		if err != nil {
			return ids, err
		}
		ids = append(ids, row.GetFinding().GetId())
	}
	return ids, nil
}

// Ensure a list goes on at another node where the one that died ended, with every row once.
func TestListGoesOnAtAnotherNode(t *testing.T) {
	ca := linktest.NewCA(t)
	for pages := range int64(4) {
		first, second := &node{}, &node{list: rows(11)}
		dies(first, pages, rows(11))
		c := connectTo(t, ca, client.Options{}, serve(t, ca, link.KindNode, first), serve(t, ca, link.KindNode, second))
		got, err := listed(t.Context(), c)
		var want []string
		for i := range 11 {
			want = append(want, fmt.Sprintf("f-%d", i))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("after %d pages of the first node: got %v, %v", pages, got, err)
		}
	}
}

// Ensure a list that cannot go on says that it is incomplete and why, also when a node would
// make it endless, and when a page takes too long; and that a list that never began does not.
func TestIncompleteList(t *testing.T) {
	ca := linktest.NewCA(t)
	soon := client.Options{RetryFor: time.Millisecond, RetryUnreachable: time.Millisecond, PageTime: 500 * time.Millisecond}
	away, never, circle, slow := &node{}, &node{}, &node{}, &node{}
	dies(away, 2, rows(11))
	dies(never, 0, rows(11))
	circle.list = func(r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
		res, err := rows(11)(r)
		res.PageToken = "3"
		return res, err
	}
	stop := make(chan struct{})
	defer close(stop)
	slow.list = func(r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
		if r.GetPageToken() != "" {
			<-stop
		}
		return rows(11)(r)
	}
	for _, tt := range []struct {
		name   string
		node   *node
		rows   int
		broken bool
		is     error
	}{
		{"every node is gone", away, 6, true, client.ErrNoLeader},
		{"it never began", never, 0, false, client.ErrNoLeader},
		{"the same page again", circle, 6, true, client.ErrIncomplete},
		{"a page that does not come", slow, 3, true, client.ErrTimeout},
	} {
		got, err := listed(t.Context(), connectTo(t, ca, soon, serve(t, ca, link.KindNode, tt.node)))
		if len(got) != tt.rows || errors.Is(err, client.ErrIncomplete) != tt.broken || !errors.Is(err, tt.is) {
			t.Errorf("%s: got %d rows, %v", tt.name, len(got), err)
		}
	}
}
