package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// quietBackup is how long a node may make a backup without sending anything: it copies
// its state first, which for gigabytes on a busy disk takes a while.
const quietBackup = 5 * time.Minute

// Backup writes a copy of the cluster's state to w, in the format of proto/backup and not
// encrypted; with identity it holds the key of the cluster's authority, and w must encrypt
// what it gets. The nodes are tried one after the other until one begins; what breaks
// off then is an error, and what w has got is worth nothing.
func (c *Client) Backup(ctx context.Context, identity bool, w io.Writer) error {
	first := c.preferred()
	var failures []error
	for n := range c.nodes {
		i := (first + n) % len(c.nodes)
		begun, err := c.backupFrom(ctx, i, identity, w)
		if err == nil {
			c.setPreferred(i)
			return nil
		}
		v := judge(ctx, c.nodes[i].address, err)
		if begun {
			return fmt.Errorf("the backup broke off: %w", v.err)
		}
		if !v.retry {
			return v.err
		}
		failures = append(failures, v.err)
	}
	return worst(failures)
}

func (c *Client) backupFrom(ctx context.Context, i int, identity bool, w io.Writer) (begun bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(quietBackup, cancel)
	defer silence.Stop()
	stream, err := c.nodes[i].api.Backup(ctx, &operatorv1.BackupRequest{Identity: identity})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	for stream.Receive() {
		silence.Reset(quietBackup)
		begun = true
		if _, err := w.Write(stream.Msg().GetData()); err != nil {
			return true, err
		}
	}
	return begun, stream.Err()
}
