package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxReceipt bounds a receipt's file.
const maxReceipt = 64 << 10

// receipt is `audit checkpoint`: somebody's signed word for the record up to an entry.
type receipt struct {
	ClusterID string     `json:"cluster_id"`
	By        string     `json:"by"`
	Index     uint64     `json:"index"`
	Hash      string     `json:"hash"`
	Time      shape.Time `json:"time"`
	Signature []byte     `json:"signature"`
	Chain     [][]byte   `json:"chain"`
	Authority []byte     `json:"authority"`
	// Nodes are how many nodes' words the record agreed with.
	Nodes int `json:"nodes"`
}

func (r *receipt) checkpoint() (*raftv1.Checkpoint, error) {
	hash, err := hex.DecodeString(r.Hash)
	return &raftv1.Checkpoint{ClusterId: r.ClusterID, Node: r.By, Index: r.Index, Hash: hash, Time: int64(r.Time), Signature: r.Signature, Chain: r.Chain}, err
}

// witness compares a record with the receipt; nil agrees with every record.
func (r *receipt) witness() *audit.Witness {
	if r == nil {
		return audit.NewWitness()
	}
	c, _ := r.checkpoint() // readReceipt has read it
	return audit.NewWitness(c)
}

// words say whose receipt it is, and by which authority, for a person to compare.
func (r *receipt) words() string {
	sum := sha256.Sum256(r.Authority)
	return fmt.Sprintf("entry %d agrees with what %s signed at %s, certified by the authority with SHA-256 %x", r.Index, r.By, clock(int64(r.Time)), sum[:8])
}

// readReceipt reads and verifies a receipt by the authority that it names; nil for no path.
func readReceipt(path string) (*receipt, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, usage("opening the receipt: %w", err)
	}
	if info.Size() > maxReceipt {
		return nil, usage("%s is no receipt: it has %d bytes", path, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("opening the receipt: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	r := new(receipt)
	if err := dec.Decode(r); err != nil {
		return nil, usage("%s is no receipt of 'vedette audit checkpoint': %w", path, err)
	}
	c, err := r.checkpoint()
	if err != nil {
		return nil, usage("%s is no receipt of 'vedette audit checkpoint': %w", path, err)
	}
	root, err := x509.ParseCertificate(r.Authority)
	if err != nil {
		return nil, usage("%s is no receipt of 'vedette audit checkpoint': %w", path, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := audit.VerifyCheckpoint(c, roots); err != nil {
		return nil, exit(exitError, "the receipt %s does not hold: %w", path, err)
	}
	return r, nil
}

// writeNew writes a file of mode 0600 that must not exist: it may be the only one.
func writeNew(path string, write func(*bufio.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usage("%s exists: choose another file with --out", path)
	}
	if err != nil {
		return usage("writing %s: %w", path, err)
	}
	w := bufio.NewWriter(f)
	if err := errors.Join(write(w), w.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

func (a *app) auditExportCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "export --out FILE",
		Short: "write the whole record to a file, checked on the way",
		Long: `Writes every entry of the record to a new file of mode 0600, one JSON object a line, and
computes the chain anew meanwhile: a record that does not hold is not exported.`,
		Example: "  vedette audit export --out audit.jsonl\n  vedette audit verify audit.jsonl --checkpoint receipt.json",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			if out == "" {
				return usage("--out FILE is needed")
			}
			var chain client.Chain
			err := writeNew(out, func(w *bufio.Writer) (err error) {
				enc := json.NewEncoder(w)
				enc.SetEscapeHTML(false)
				chain, err = client.VerifyAudit(func(yield func(*operatorv1.AuditEntry, error) bool) {
					for e, err := range s.api.Audit(ctx, 0) {
						if err == nil {
							err = enc.Encode(shape.FromAudit(e))
						}
						if !yield(e, err) {
							return
						}
					}
				})
				return err
			})
			if err != nil {
				return err
			}
			s.say("%s has entries %d to %d", out, chain.From, chain.To)
			return s.Show(output.Shown{Name: out, Value: verified{OK: true, From: chain.From, To: chain.To, Head: hex.EncodeToString(chain.Head)}, Page: func(g *output.Page) {
				g.Field("head", hex.EncodeToString(chain.Head))
			}})
		}),
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write, which must not exist")
	return c
}

func (a *app) auditCheckpointCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "checkpoint --out FILE",
		Short: "sign a receipt of the record as it is now, to be kept elsewhere",
		Long: `Reads the whole record, computes its chain anew, compares it with what the nodes have
signed of it, and writes a receipt: which entry is the last, its hash and the time, signed with
your key. Keep it where the cluster's administrators cannot change it. A record that lacks that
entry later, or has another one there, was cut off or written anew: 'audit verify --checkpoint'.
Between two receipts nothing proves the end of the record, so make one as often as that matters.`,
		Example: "  vedette audit checkpoint --out receipt-2026-11.json",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			if out == "" {
				return usage("--out FILE is needed")
			}
			checkpoints, err := s.api.Checkpoints(ctx)
			if err != nil {
				return err
			}
			witness := audit.NewWitness(checkpoints...)
			chain, err := client.VerifyAudit(func(yield func(*operatorv1.AuditEntry, error) bool) {
				for e, err := range s.api.Audit(ctx, 0) {
					if err == nil {
						err = witness.See(e)
					}
					if !yield(e, err) {
						return
					}
				}
			})
			if err == nil {
				err = witness.Done()
			}
			if err != nil {
				return err
			}
			if chain.To == 0 {
				return exit(exitError, "the record is empty: there is nothing to sign")
			}
			c, authority, err := s.api.SignAudit(chain)
			if err != nil {
				return err
			}
			r := receipt{ClusterID: c.GetClusterId(), By: c.GetNode(), Index: c.GetIndex(), Hash: hex.EncodeToString(c.GetHash()), Time: stamp(c.GetTime()),
				Signature: c.GetSignature(), Chain: c.GetChain(), Authority: authority, Nodes: nodesOf(checkpoints)}
			err = writeNew(out, func(w *bufio.Writer) error {
				enc := json.NewEncoder(w)
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			})
			if err != nil {
				return err
			}
			s.say("%s is the receipt of entries 1 to %d, which agree with what %s signed; keep it elsewhere", out, r.Index, plural(r.Nodes, "node"))
			return s.Show(output.Shown{Name: out, Value: r, Page: func(g *output.Page) {
				g.Field("entry", number(r.Index))
				g.Field("hash", r.Hash)
			}})
		}),
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write, which must not exist")
	return c
}

func nodesOf(checkpoints []*raftv1.Checkpoint) int {
	nodes := make(map[string]bool)
	for _, c := range checkpoints {
		nodes[c.GetNode()] = true
	}
	return len(nodes)
}
