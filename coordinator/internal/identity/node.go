package identity

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// The files of a data directory that are this package's.
const (
	fileAuthority    = "ca.crt"
	fileAuthorityKey = "ca.key"
	fileOperators    = "operators.crt"
	fileNode         = "node.crt"
	fileNodeKey      = "node.key"
	fileCluster      = "cluster.json"
)

// Membership says which node of which cluster a data directory is.
type Membership struct {
	ClusterID string `json:"cluster_id"`
	NodeID    string `json:"node_id"`
	// Founder is the node that made the cluster: it alone starts the first term of the log.
	Founder bool `json:"founder"`
	// Listen, OperatorListen, Address and OperatorAddress are those that the node
	// was made with: the defaults of a start without a configuration.
	Listen          string `json:"listen"`
	OperatorListen  string `json:"operator_listen"`
	Address         string `json:"address"`
	OperatorAddress string `json:"operator_address"`
	// Peers are the nodes known when this one joined, to find the cluster by.
	Peers []Peer `json:"peers,omitempty"`
	// Sum is the SHA-256 of the rest, in hex; an earlier release wrote none.
	Sum string `json:"sha256,omitempty"`
}

// sum is what Sum should be.
func (m Membership) sum() (string, error) {
	m.Sum = ""
	text, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encoding %s: %w", fileCluster, err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(text)), nil
}

// encode is what cluster.json holds, with the sum of the rest.
func (m Membership) encode() (text []byte, err error) {
	if m.Sum, err = m.sum(); err != nil {
		return nil, err
	}
	if text, err = json.MarshalIndent(m, "", "  "); err != nil {
		return nil, fmt.Errorf("encoding %s: %w", fileCluster, err)
	}
	return append(text, '\n'), nil
}

// decodeMembership reads what encode made, or an earlier release.
func decodeMembership(path string) (m Membership, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return m, fmt.Errorf("reading the node's identity: %w", err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("reading %s: %w: %w", path, err, ErrDamaged)
	}
	if want, err := m.sum(); err != nil || m.Sum != "" && m.Sum != want {
		return m, errors.Join(err, fmt.Errorf("reading %s: its checksum is not that of its content: %w", path, ErrDamaged))
	}
	return m, nil
}

// Peer is another node of the cluster.
type Peer struct {
	ID              string `json:"id"`
	Address         string `json:"address"`
	OperatorAddress string `json:"operator_address"`
}

// Node is a node's own identity: its certificate, which it renews itself, the
// cluster's authority, and the certificate of the operators'. Safe for concurrent use.
type Node struct {
	dir        string
	membership Membership
	authority  *Authority
	key        crypto.Signer
	now        func() time.Time

	mu          sync.Mutex // guards what follows
	operators   *x509.Certificate
	certificate *tls.Certificate // by the authority that nodes show sensors
	toNodes     *tls.Certificate // by the one that signs; nil where that is the same
	names       []string
	signed      *sensorv1.SignedTrust // nil: none was ever signed
}

// Create writes the identity of a node into dir, which must hold none. Of the
// operators' authority it is given the certificate; the key is for no node.
func Create(dir string, m Membership, authority *Authority, operators *x509.Certificate, key crypto.Signer, chain [][]byte) (*Node, error) {
	if _, err := os.Stat(filepath.Join(dir, fileCluster)); err == nil {
		return nil, fmt.Errorf("%s: %w", dir, ErrInitialised)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	authorityKey, err := authority.KeyDER()
	if err != nil {
		return nil, err
	}
	nodeKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the node's key: %w", err)
	}
	description, err := m.encode()
	if err != nil {
		return nil, err
	}
	// A backup that was made while one authority followed another has both.
	for _, other := range authority.held()[1:] {
		if name := link.Pin(other.certificate); other.key != nil {
			if err := (&Node{dir: dir}).keepKey(name[:], other.key); err != nil {
				return nil, err
			}
		}
	}
	// cluster.json last: its presence says that the rest is complete.
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{fileAuthority, encodePEM("CERTIFICATE", authority.Certificate().Raw), 0o644},
		{fileAuthorityKey, encodePEM("PRIVATE KEY", authorityKey), 0o600},
		{fileOperators, encodePEM("CERTIFICATE", operators.Raw), 0o644},
		{fileNode, encodePEM("CERTIFICATE", chain...), 0o644},
		{fileNodeKey, encodePEM("PRIVATE KEY", nodeKey), 0o600},
		{fileCluster, description, 0o644},
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return nil, err
		}
	}
	return Load(dir)
}

// Load reads a data directory's identity and checks that its parts belong together.
func Load(dir string) (*Node, error) {
	m, err := decodeMembership(filepath.Join(dir, fileCluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotInitialised)
	}
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir, now: time.Now, membership: m}
	root, err := readPEM(filepath.Join(dir, fileAuthority), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	rootKey, err := readKey(filepath.Join(dir, fileAuthorityKey))
	if err != nil {
		return nil, err
	}
	if n.authority, err = newAuthority(n.membership.ClusterID, root[0], rootKey); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if n.operators, err = n.loadOperators(); err != nil { // nobody else has n yet
		return nil, err
	}
	if n.key, err = readKey(filepath.Join(dir, fileNodeKey)); err != nil {
		return nil, err
	}
	if err := n.loadTrust(); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	chain, err := readPEM(filepath.Join(dir, fileNode), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	if err := n.adopt(chain); err != nil && n.signed == nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	} else if err != nil {
		// It may be by an authority that went while this node was about to renew it.
		return n, n.renew(nil)
	}
	return n, nil
}

// loadOperators reads the operators' root. The cluster's own authority in its place
// would make an operator of every node.
func (n *Node) loadOperators() (*x509.Certificate, error) {
	path := filepath.Join(n.dir, fileOperators)
	blocks, err := readPEM(path, "CERTIFICATE")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: %w", path, ErrNoOperators)
	}
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(blocks[0])
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w: %w", path, err, ErrDamaged)
	}
	if err := operator.CheckRoot(root, n.membership.ClusterID); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrMismatch, err)
	}
	if link.Pin(root) == n.authority.Pin() {
		return nil, fmt.Errorf("%s: %w: it is the cluster's authority, not the operators'", path, ErrMismatch)
	}
	return root, nil
}

// adopt takes a chain as the node's certificate after checking that it is this node's.
func (n *Node) adopt(chain [][]byte) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("parsing the node's certificate: %w", err)
	}
	peer, err := link.PeerOf(leaf)
	if err != nil {
		return fmt.Errorf("reading the node's certificate: %w", err)
	}
	if peer.Cluster != n.membership.ClusterID || peer.Kind != KindNode || peer.ID != n.membership.NodeID {
		return fmt.Errorf("%w: certificate of %s %s in cluster %s, expected node %s in cluster %s",
			ErrMismatch, peer.Kind, peer.ID, peer.Cluster, n.membership.NodeID, n.membership.ClusterID)
	}
	if !signedBy(leaf, n.authority.Certificate()) {
		return fmt.Errorf("%w: the node's certificate is not signed by the cluster's authority", ErrMismatch)
	}
	if len(chain) > 1 && !bytes.Equal(chain[1], n.authority.Certificate().Raw) {
		return fmt.Errorf("%w: what follows the node's certificate is not the cluster's authority", ErrMismatch)
	}
	public, ok := n.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return fmt.Errorf("%w: the node's key is not its certificate's", ErrMismatch)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.certificate = &tls.Certificate{Certificate: chain, PrivateKey: n.key, Leaf: leaf}
	return nil
}

// Membership says which node of which cluster this is.
func (n *Node) Membership() Membership { return n.membership }

// Authority is the cluster's root.
func (n *Node) Authority() *Authority { return n.authority }

// Operators is the certificate of the operators' authority.
func (n *Node) Operators() *x509.Certificate {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.operators
}

// Dir is the data directory.
func (n *Node) Dir() string { return n.dir }

// SetNames says at which hosts operators reach this node and renews the
// certificate when it lacks one of them.
func (n *Node) SetNames(names []string) error {
	n.mu.Lock()
	n.names = slices.Clone(names)
	n.mu.Unlock()
	_, err := n.Certificate()
	return err
}

// Certificate is the node's current one: renewed on the way when half of its
// life is over, so that no timer is needed. A renewal that fails is an error
// only when the present certificate has expired.
func (n *Node) Certificate() (*tls.Certificate, error) {
	n.mu.Lock()
	current, names := n.certificate, n.names
	n.mu.Unlock()
	leaf := current.Leaf
	now := n.now()
	half := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	// A renewed authority has the same key; its new certificate is what a chain must end with.
	shown := current.Certificate[len(current.Certificate)-1]
	if now.Before(half) && carries(leaf, names) && bytes.Equal(shown, n.authority.Certificate().Raw) {
		return current, nil
	}
	if err := n.renew(names); err != nil {
		if now.After(leaf.NotAfter) {
			return nil, err
		}
		return current, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.certificate, nil
}

func (n *Node) renew(names []string) error {
	chain, err := n.authority.SignNode(n.key.Public(), n.membership.NodeID, names)
	if err == nil {
		err = n.adopt(chain)
	}
	if err != nil {
		return fmt.Errorf("renewing the node's certificate: %w", err)
	}
	// The new certificate serves even when it cannot be kept: the next start renews again.
	_ = writeFile(filepath.Join(n.dir, fileNode), encodePEM("CERTIFICATE", chain...), 0o644)
	return nil
}

// toPeers is what this node shows other nodes: by the authority that signs, which every
// node knows. So one that was away when another authority went is among friends again.
func (n *Node) toPeers() (*tls.Certificate, error) {
	by := n.authority.issuing()
	if by.key == nil || by.certificate.Equal(n.authority.Certificate()) {
		return n.Certificate()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	if c := n.toNodes; c != nil && bytes.Equal(c.Certificate[1], by.certificate.Raw) && now.Before(c.Leaf.NotBefore.Add(c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/2)) {
		return c, nil
	}
	chain, err := n.authority.signNode(by, n.key.Public(), n.membership.NodeID, n.names)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("parsing the node's certificate: %w", err)
	}
	n.toNodes = &tls.Certificate{Certificate: chain, PrivateKey: n.key, Leaf: leaf}
	return n.toNodes, nil
}

func carries(leaf *x509.Certificate, names []string) bool {
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			want := ip.WithZone("").AsSlice()
			if !slices.ContainsFunc(leaf.IPAddresses, func(have net.IP) bool {
				return bytes.Equal(have, want)
			}) {
				return false
			}
		} else if name != "" && !slices.Contains(leaf.DNSNames, name) {
			return false
		}
	}
	return true
}

// Credentials are what the link presents and verifies with.
func (n *Node) Credentials(revoked func(serial string) bool) link.Credentials {
	return link.Credentials{Certificate: n.Certificate, ToNodes: n.toPeers, Roots: n.authority.Roots, Revoked: revoked}
}

// PeersOf turns a node list into what cluster.json keeps.
func PeersOf(nodes []*sensorv1.Node) []Peer {
	peers := make([]Peer, 0, len(nodes))
	for _, node := range nodes {
		peers = append(peers, Peer{ID: node.GetId(), Address: node.GetAddress(), OperatorAddress: node.GetOperatorAddress()})
	}
	return peers
}

// AuthorityFromEnrolment rebuilds the authority that a joining node was handed.
func AuthorityFromEnrolment(cluster string, root, keyDER []byte) (*Authority, error) {
	key, err := parseKey(keyDER)
	if err != nil {
		return nil, err
	}
	return newAuthority(cluster, root, key)
}

func encodePEM(kind string, blocks ...[]byte) []byte {
	var out bytes.Buffer
	for _, der := range blocks {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return out.Bytes()
}

func readPEM(path, kind string) ([][]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the node's identity: %w", err)
	}
	var blocks [][]byte
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type == kind {
			blocks = append(blocks, block.Bytes)
		}
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("reading %s: it holds no PEM block of type %s: %w", path, kind, ErrDamaged)
	}
	return blocks, nil
}

func readKey(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the node's identity: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: %w: run 'chmod 600 %s' and consider whether it was copied", path, mode, ErrInsecureKey, path)
	}
	blocks, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := parseKey(blocks[0])
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return key, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing a private key: %w", err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("parsing a private key: %T cannot sign", parsed)
	}
	return signer, nil
}

// writeFile replaces a file at once and durably: a crash leaves the old one or the new one.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	failpoint.Hit("identity.rename.before")
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	failpoint.Hit("identity.rename.after")
	if err == nil {
		err = syncDir(filepath.Dir(path)) // else the new name is in memory alone
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
