package client

import (
	"context"
	"errors"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// watchPause is between two attempts to follow the cluster again.
const watchPause = 500 * time.Millisecond

// Watch calls event with everything that happens from now on, until ctx ends. A
// lost stream is taken up at another node; changed hears each time of the node it
// is lost at and why, and with a nil error of the node that is followed now. What
// happened in between is not replayed: lists tell it.
//
// It returns nil when ctx ends, or the first error that no other node can mend.
func (c *Client) Watch(ctx context.Context, host string, event func(*operatorv1.WatchResponse), changed func(node string, err error)) error {
	for i := c.preferred(); ; i = (i + 1) % len(c.nodes) {
		err := c.follow(ctx, i, host, event, func() { changed(c.nodes[i].address, nil) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			v := judge(ctx, c.nodes[i].address, err)
			if !v.retry {
				return v.err
			}
			changed(c.nodes[i].address, v.err)
		} else {
			changed(c.nodes[i].address, errors.New("the node ended the stream"))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

func (c *Client) follow(ctx context.Context, i int, host string, event func(*operatorv1.WatchResponse), opened func()) error {
	stream, err := c.nodes[i].api.Watch(ctx, &operatorv1.WatchRequest{Host: host})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // its error is Err's
	// Watch returns before the node has answered; the headers of an answer prove one.
	if len(stream.ResponseHeader()) > 0 {
		c.setPreferred(i)
		opened()
	}
	for stream.Receive() {
		event(stream.Msg())
	}
	return stream.Err()
}
