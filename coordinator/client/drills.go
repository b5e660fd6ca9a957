package client

import (
	"context"
	"iter"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// PutDrills has the cluster keep what drills found out.
func (c *Client) PutDrills(ctx context.Context, results []*raftv1.DrillResult) error {
	_, err := call(ctx, c, api.PutDrills, &operatorv1.PutDrillsRequest{Results: results})
	return err
}

// Drills yields the last result of each host and drill, of one host or of all.
func (c *Client) Drills(ctx context.Context, host string) iter.Seq2[*raftv1.DrillResult, error] {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*raftv1.DrillResult, string, error) {
		res, err := call(ctx, c, api.ListDrills, &operatorv1.ListDrillsRequest{Host: host, PageSize: pageSize, PageToken: token})
		return res.GetResults(), res.GetPageToken(), err
	})
}
