package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/rootkey"
	"github.com/vedette-edr/vedette/proto/seal"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Errors that a caller may want to tell apart.
var (
	// ErrNotInitialised: the data directory is no node's yet.
	ErrNotInitialised = identity.ErrNotInitialised
	// ErrInitialised: the data directory is a node's already.
	ErrInitialised = identity.ErrInitialised
	// ErrRefused: the cluster did not let the node join.
	ErrRefused = errors.New("the cluster refused")
)

// AdminContext is the file in the data directory of a new cluster that makes its
// reader the first admin.
const AdminContext = "admin.context.yaml"

// joinTimeout bounds one attempt to join.
const joinTimeout = 20 * time.Second

func (c *Config) membership(cluster string, founder bool) identity.Membership {
	return identity.Membership{ClusterID: cluster, NodeID: c.ID, Founder: founder, Listen: c.Listen, OperatorListen: c.OperatorListen,
		Address: c.Advertise, OperatorAddress: c.OperatorAdvertise}
}

// prepare completes and checks the Config of a node that is about to be made.
func (c *Config) prepare() error {
	c.populate(identity.Membership{Listen: DefaultListen, Address: DefaultListen, OperatorListen: DefaultOperatorListen, OperatorAddress: DefaultOperatorListen})
	if c.ID == "" {
		return errors.New("configuration: id: name the node, for instance with --id node-1")
	}
	if err := c.validate(); err != nil {
		return err
	}
	if _, err := identity.Load(c.Data); err == nil {
		return fmt.Errorf("%s: %w", c.Data, ErrInitialised)
	} else if !errors.Is(err, ErrNotInitialised) {
		return err
	}
	// A log or a state without an identity is what is left of another node.
	for _, name := range []string{"raft", "state.db"} {
		if _, err := os.Stat(filepath.Join(c.Data, name)); err == nil {
			return fmt.Errorf("%s holds %s of a node that was here before: choose an empty --data", c.Data, name)
		}
	}
	return nil
}

// RootFile says where a new cluster's root goes, the key of the operators' authority, and
// who can open it.
type RootFile struct {
	// Path must not exist.
	Path string
	// Recipients are age's, or it is a Passphrase that opens it.
	Recipients []string
	Passphrase string
}

// Init makes a new cluster of one node: its authority, the operators' authority,
// the node's identity and the first admin's context file, whose path it returns. The
// operators' key is in that file and nowhere else: it belongs on the admin's machine.
func Init(cfg Config) (string, error) { return initialise(cfg, nil) }

// InitOffline is Init with the operators' key in an encrypted file and nowhere else: the
// admin's context has an authority of its own.
func InitOffline(cfg Config, root RootFile) (string, error) { return initialise(cfg, &root) }

func initialise(cfg Config, root *RootFile) (string, error) {
	if err := cfg.prepare(); err != nil {
		return "", err
	}
	authority, err := identity.NewAuthority(identity.NewClusterID())
	if err != nil {
		return "", err
	}
	operators, err := operator.New(authority.Cluster())
	if err != nil {
		return "", err
	}
	key, err := identity.NewKey()
	if err != nil {
		return "", err
	}
	chain, err := authority.SignNode(key.Public(), cfg.ID, certificateNames(&cfg))
	if err != nil {
		return "", err
	}
	admin, err := client.FirstContext(operators, authority.Certificate(), authority.Cluster(), "admin", []string{cfg.OperatorAdvertise})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return "", fmt.Errorf("making the data directory: %w", err)
	}
	// The operators' key first: a cluster that lost it could never have an operator.
	undo := func() error { return nil }
	if root != nil {
		if err := root.take(admin); err != nil {
			return "", err
		}
		undo = func() error { return os.Remove(root.Path) }
	}
	path := filepath.Join(cfg.Data, AdminContext)
	if err := admin.WriteNew(path); errors.Is(err, fs.ErrExist) {
		return "", errors.Join(fmt.Errorf("%w: it is of a cluster whose making was interrupted, or of another one; move it away", err), undo())
	} else if err != nil {
		return "", errors.Join(err, undo())
	}
	if _, err := identity.Create(cfg.Data, cfg.membership(authority.Cluster(), true), authority, operators.Root(), key, chain); err != nil {
		return "", errors.Join(err, os.Remove(path), undo())
	}
	return path, nil
}

// take writes the root's key to its file and has the admin's context, which no disk has
// seen, go on without it.
func (r *RootFile) take(admin *client.Context) error {
	k, err := admin.Root(time.Now())
	if err != nil {
		return err
	}
	sealed, err := rootkey.Seal(k, r.Recipients, r.Passphrase)
	if err != nil {
		return err
	}
	if err := admin.Offline(k, 0); err != nil {
		return err
	}
	if err := client.WriteRoot(r.Path, sealed); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it may be another root's only copy; choose another file", err)
	} else if err != nil {
		return err
	}
	written, err := os.ReadFile(r.Path)
	if err == nil && !bytes.Equal(written, sealed) {
		err = errors.New("it does not hold what was written to it")
	}
	if err == nil && r.Passphrase != "" {
		var file *rootkey.File
		if file, err = rootkey.Parse(written); err == nil {
			_, err = file.Open(seal.Keys{Passphrase: r.Passphrase})
		}
	}
	if err != nil {
		return fmt.Errorf("reading %s back: %w", r.Path, errors.Join(err, os.Remove(r.Path)))
	}
	return nil
}

// Join makes the data directory a node of the cluster that the token is of. The
// node takes part once it runs.
func Join(ctx context.Context, cfg Config, coordinator, tokenText string) error {
	if err := cfg.prepare(); err != nil {
		return err
	}
	token, err := link.ParseToken(tokenText)
	if err != nil {
		return err
	}
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	csr, err := identity.NewRequest(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	enrolled, err := enroll(ctx, coordinator, token, &sensorv1.EnrollRequest{
		Protocol: frame.ProtocolVersion, Kind: sensorv1.EnrollKind_ENROLL_KIND_NODE, TokenId: token.ID, TokenSecret: token.Secret[:],
		Csr: csr, Node: &sensorv1.Node{Id: cfg.ID, Address: cfg.Advertise, OperatorAddress: cfg.OperatorAdvertise}})
	if err != nil {
		return err
	}
	if len(enrolled.GetRoots()) == 0 || len(enrolled.GetChain()) == 0 {
		return fmt.Errorf("%w: its answer holds no certificate", ErrRefused)
	}
	authority, err := identity.AuthorityFromEnrolment(enrolled.GetClusterId(), enrolled.GetRoots()[0], enrolled.GetCaKey())
	if err != nil {
		return err
	}
	if authority.Pin() != token.CA {
		return fmt.Errorf("%w: the authority in its answer is not the token's", ErrRefused)
	}
	operators, err := link.Pinned(enrolled.GetOperatorRoots(), token.Operators)
	if err != nil {
		return fmt.Errorf("%w: the operators' authority in its answer: %w", ErrRefused, err)
	}
	membership := cfg.membership(enrolled.GetClusterId(), false)
	// The node that answered is a way into the cluster even when its own list is
	// still empty: a founder signs before its first log entry is written.
	membership.Peers = []identity.Peer{{Address: coordinator}}
	for _, peer := range identity.PeersOf(enrolled.GetNodes()) {
		switch {
		case peer.Address == coordinator:
			membership.Peers[0] = peer
		case peer.ID != cfg.ID:
			membership.Peers = append(membership.Peers, peer)
		}
	}
	node, err := identity.Create(cfg.Data, membership, authority, operators, key, enrolled.GetChain())
	if err != nil {
		return err
	}
	return trustFromJoin(node, enrolled.GetTrust())
}

func enroll(ctx context.Context, addr string, token link.Token, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, error) {
	conn, err := link.Dial(ctx, addr, link.ALPNEnroll, link.DialConfig{PinnedCA: token.CA})
	if err != nil {
		return nil, fmt.Errorf("reaching the cluster: %w", err)
	}
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("reaching the cluster: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	if err := frame.Write(stream, request); err != nil {
		return nil, fmt.Errorf("asking to join: %w", err)
	}
	var reply sensorv1.EnrollReply
	if err := frame.Read(stream, &reply); err != nil {
		return nil, fmt.Errorf("asking to join: %w", err)
	}
	if refusal := reply.GetRefusal(); refusal != nil {
		return nil, fmt.Errorf("%w: %s (%s)", ErrRefused, refusal.GetMessage(), refusal.GetCode())
	}
	return reply.GetEnrolled(), nil
}
