// Package witness signs, on every node, what its copy of the audit says: that entry n
// had this hash then, with the node's key.
//
// Its one idea: the words are made to be kept elsewhere. In the state they tell nodes
// from one another, since a node whose copy differs is contradicted by the log; whoever
// has an operator's receipt, or a node's word of before, can tell a record that was
// written anew, which all nodes together could do.
package witness

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// every and entries are when a node signs again: so long after, or so many entries
	// after it did last, when there is anything new.
	every   = 10 * time.Minute
	entries = 1000
	// lookEvery is how often it looks.
	lookEvery = 5 * time.Second
	timeout   = 5 * time.Second
)

// Log takes what was signed.
type Log interface {
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
}

// DB is this node's copy.
type DB interface {
	AuditEnd(ctx context.Context, node string) (index uint64, hash []byte, signed uint64, at int64, err error)
}

// Config of a Witness. All of it but Logger and Now is needed.
type Config struct {
	NodeID, Cluster string
	Certificate     func() (*tls.Certificate, error)
	Log             Log
	DB              DB
	Logger          *slog.Logger
	Now             func() time.Time
}

// Witness signs until Run's context ends.
type Witness struct{ cfg Config }

// New makes a Witness.
func New(cfg Config) (*Witness, error) {
	if cfg.NodeID == "" || cfg.Cluster == "" || cfg.Certificate == nil || cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("witness configuration: NodeID, Cluster, Certificate, Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Witness{cfg}, nil
}

// Run looks and signs. What fails is tried again.
func (w *Witness) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := w.look(ctx)
		if err == nil {
			said = ""
		} else if text := err.Error(); ctx.Err() == nil && text != said {
			said = text
			w.cfg.Logger.Warn("audit checkpoint not signed; trying again", "error", err)
		}
	}
}

// look signs when it is due.
func (w *Witness) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	self := link.KindNode + ":" + w.cfg.NodeID
	index, hash, signed, at, err := w.cfg.DB.AuditEnd(ctx, self)
	if err != nil {
		return fmt.Errorf("reading the audit's end: %w", err)
	}
	now := w.cfg.Now()
	if index <= signed || index-signed < entries && now.Sub(time.Unix(0, at)) < every {
		return nil
	}
	cert, err := w.cfg.Certificate()
	if err != nil {
		return err
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("the node's key cannot sign")
	}
	c := &raftv1.Checkpoint{ClusterId: w.cfg.Cluster, Node: self, Index: index, Hash: hash, Time: now.UnixNano()}
	if err := audit.SignCheckpoint(key, cert.Certificate, c); err != nil {
		return err
	}
	res, err := w.cfg.Log.Propose(ctx, &raftv1.Command{Time: now.UnixNano(), Actor: self, IdempotencyKey: fmt.Sprintf("checkpoint/%d", index),
		Body: &raftv1.Command_PutCheckpoint{PutCheckpoint: &raftv1.PutCheckpoint{Checkpoint: c}}})
	if err == nil && res.GetRejected() != "" {
		w.cfg.Logger.Error("the cluster contradicts this node's copy of the audit", "entry", index, "code", res.GetRejected(), "reason", res.GetMessage())
		err = fmt.Errorf("%s: %s", res.GetRejected(), res.GetMessage())
	}
	return err
}
