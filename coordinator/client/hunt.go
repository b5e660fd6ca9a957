package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Hunt puts a question to the flight recorders of hosts and yields what comes, in the order
// in which it comes: first begun, last end. The nodes are tried one after the other until
// one begins; a hunt that breaks off then ends with ErrIncomplete, and is not begun anew:
// it would be asked, and be in the audit, twice.
func (c *Client) Hunt(ctx context.Context, req *operatorv1.HuntRequest) iter.Seq2[*operatorv1.HuntResponse, error] {
	return func(yield func(*operatorv1.HuntResponse, error) bool) {
		first := c.preferred()
		var failures []error
		for n := range c.nodes {
			i := (first + n) % len(c.nodes)
			begun, ended, err := c.huntAt(ctx, i, req, yield)
			if ended {
				return
			}
			if err == nil {
				err = errors.New("the node ended the stream")
			}
			v := judge(ctx, c.nodes[i].address, err)
			switch {
			case begun:
				yield(nil, fmt.Errorf("%w: the hunt broke off: %w", ErrIncomplete, v.err))
				return
			case !v.retry:
				yield(nil, v.err)
				return
			}
			failures = append(failures, v.err)
		}
		yield(nil, worst(failures))
	}
}

// huntAt hunts at one node. ended: the hunt is over, or nobody wants more.
func (c *Client) huntAt(ctx context.Context, i int, req *operatorv1.HuntRequest, yield func(*operatorv1.HuntResponse, error) bool) (begun, ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.nodes[i].api.Hunt(ctx, req)
	if err != nil {
		return false, false, err
	}
	defer func() { _ = stream.Close() }() // its error is Err's
	for stream.Receive() {
		if !begun {
			begun = true
			c.setPreferred(i)
		}
		m := stream.Msg()
		if !yield(m, nil) || m.GetEnd() != nil {
			return begun, true, nil
		}
	}
	return begun, false, stream.Err()
}
