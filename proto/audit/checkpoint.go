package audit

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// A checkpoint is somebody's signed word that entry Index of a cluster's record had a
// hash at a time: a node's, of its own copy, or an operator's who computed the chain
// anew. As the hash covers everything before, a record that has that entry is, up to
// there, the one that was seen then; one that has another entry there, or none, is not.
// What came after the last checkpoint that somebody keeps elsewhere can be cut off, or
// written anew with right hashes, and nothing shows it.

// checkpointDomain separates these signatures from any other use of the same keys.
const checkpointDomain = "vedette-audit-checkpoint-v1\x00"

// ErrCheckpoint: not a checkpoint, or nobody's of this cluster.
var ErrCheckpoint = errors.New("bad audit checkpoint")

// checkpointBytes are what is signed, by one encoding as that of Hash.
func checkpointBytes(c *raftv1.Checkpoint) []byte {
	b := append([]byte(nil), checkpointDomain...)
	b = binary.BigEndian.AppendUint64(b, c.GetIndex())
	b = binary.BigEndian.AppendUint64(b, uint64(c.GetTime())) //nolint:gosec // its bits
	for _, field := range []string{c.GetClusterId(), c.GetNode(), string(c.GetHash())} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(field))) //nolint:gosec // a few bytes
		b = append(b, field...)
	}
	return b
}

// SignCheckpoint signs c in the name of the certificate that chain (leaf first, DER)
// begins with, a node's or an operator's, and puts both into it.
func SignCheckpoint(key crypto.Signer, chain [][]byte, c *raftv1.Checkpoint) error {
	message, hash := checkpointBytes(c), crypto.Hash(0) // Ed25519 hashes by itself
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(message)
		message, hash = sum[:], crypto.SHA256
	}
	signature, err := key.Sign(rand.Reader, message, hash)
	if err != nil {
		return fmt.Errorf("signing an audit checkpoint: %w", err)
	}
	c.Signature, c.Chain = signature, chain
	return nil
}

// VerifyCheckpoint returns who signed a checkpoint: a node or an operator of its
// cluster, certified by one of the roots when it says that it was signed.
func VerifyCheckpoint(c *raftv1.Checkpoint, roots *x509.CertPool) (link.Peer, error) {
	const maxChain = 4
	if len(c.GetChain()) == 0 || len(c.GetChain()) > maxChain || len(c.GetHash()) != sha256.Size || c.GetIndex() == 0 {
		return link.Peer{}, fmt.Errorf("%w: it has no certificate, entry or hash", ErrCheckpoint)
	}
	pool := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range c.GetChain() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return link.Peer{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
		}
		if i == 0 {
			leaf = cert
		} else {
			pool.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: time.Unix(0, c.GetTime()),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return link.Peer{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	peer, err := link.PeerOf(leaf)
	switch {
	case err != nil:
		return link.Peer{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	case peer.Kind == link.KindHost:
		return link.Peer{}, fmt.Errorf("%w: host %s signed it", ErrCheckpoint, peer.ID)
	case peer.Cluster != c.GetClusterId() || peer.Kind+":"+peer.ID != c.GetNode():
		return link.Peer{}, fmt.Errorf("%w: it is by %s:%s of %s, and says %s of %s", ErrCheckpoint, peer.Kind, peer.ID, peer.Cluster, c.GetNode(), c.GetClusterId())
	}
	message := checkpointBytes(c)
	good := false
	switch key := leaf.PublicKey.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(key, message, c.GetSignature())
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		good = ecdsa.VerifyASN1(key, sum[:], c.GetSignature())
	}
	if !good {
		return link.Peer{}, fmt.Errorf("%w: the signature is not that of %s over it", ErrCheckpoint, c.GetNode())
	}
	return peer, nil
}

// Witness compares a record, entry by entry, with what checkpoints say of it. That the
// entries are a chain is Verify's to say.
type Witness struct {
	unseen map[uint64][]*raftv1.Checkpoint
}

// NewWitness takes checkpoints that VerifyCheckpoint accepts, or that the caller trusts.
func NewWitness(checkpoints ...*raftv1.Checkpoint) *Witness {
	w := &Witness{make(map[uint64][]*raftv1.Checkpoint)}
	for _, c := range checkpoints {
		w.unseen[c.GetIndex()] = append(w.unseen[c.GetIndex()], c)
	}
	return w
}

// See is told each entry; the error wraps ErrBroken.
func (w *Witness) See(e *operatorv1.AuditEntry) error {
	for _, c := range w.unseen[e.GetIndex()] {
		if !bytes.Equal(c.GetHash(), e.GetHash()) {
			return fmt.Errorf("%w: entry %d is not the one that %s has signed: the record was written anew, or is another branch of it", ErrBroken, e.GetIndex(), c.GetNode())
		}
	}
	delete(w.unseen, e.GetIndex())
	return nil
}

// Done says whether every checkpoint was met; the error wraps ErrBroken.
func (w *Witness) Done() error {
	var last uint64
	for index := range w.unseen {
		last = max(last, index)
	}
	if last > 0 {
		return fmt.Errorf("%w: entry %d, which %s has signed, is not there: the record was cut off", ErrBroken, last, w.unseen[last][0].GetNode())
	}
	return nil
}
