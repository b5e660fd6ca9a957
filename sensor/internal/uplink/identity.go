package uplink

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Files of an identity directory, all 0600.
const (
	keyFile      = "host.key"  // PKCS#8, PEM
	certFile     = "host.crt"  // leaf first, PEM
	rootsFile    = "roots.pem" // what nodes must chain to
	identityFile = "identity.json"
	maxNodes     = 16
)

var (
	// ErrNotEnrolled: this host has no identity yet.
	ErrNotEnrolled = errors.New("this host is not enrolled")
	// ErrExpired: the certificate cannot be used any more, nor renewed with itself.
	ErrExpired = errors.New("this host's certificate has expired")
	// ErrDamagedIdentity: the files do not belong together or cannot be read.
	ErrDamagedIdentity = errors.New("this host's identity is damaged")
)

// Identity is who this host is to its cluster. Its certificate changes at every
// renewal; the rest stays.
type Identity struct {
	HostID  string
	Cluster string

	dir string

	// mu is taken with the folder locked or without, never the other way round.
	mu            sync.Mutex
	roots         *x509.CertPool
	operators     *x509.CertPool
	trusted       *sensorv1.Trust // nil: the authorities are those of the enrolment,
	enrolledRoots [][]byte        // which are these, DER
	cert          *tls.Certificate
	state         identityState
}

// identityState is identity.json.
type identityState struct {
	HostID  string   `json:"host_id"`
	Cluster string   `json:"cluster_id"`
	Nodes   []string `json:"nodes"`
	// Operators is the certificate of the operators' authority (DER). It is in this
	// file because this one is written last and whole: whose grants are honoured is
	// never another cluster's word than who this host is.
	Operators []byte `json:"operators"`
	// Resolved are the last working addresses of nodes that are named: an
	// isolated host cannot ask a name server.
	Resolved map[string]string `json:"resolved,omitempty"`
	// Trust is the newest list of trusted authorities, a sensorv1.SignedTrust.
	Trust []byte `json:"trust,omitempty"`
}

// LoadIdentity reads the directory that Enroll wrote. With ErrExpired the
// identity is returned as well: it can still verify grants and name nodes.
func LoadIdentity(dir string) (*Identity, error) {
	id := &Identity{dir: dir}
	err := locked(dir, id.load)
	switch {
	case errors.Is(err, ErrDamagedIdentity):
		return nil, err
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no %s; %s", ErrNotEnrolled, filepath.Join(dir, identityFile), howToEnroll(nil))
	case err != nil:
		return nil, fmt.Errorf("reading identity: %w", err)
	}
	return id, id.expired(time.Now())
}

// load reads all files; the folder is locked.
func (id *Identity) load() error {
	data, err := os.ReadFile(filepath.Join(id.dir, identityFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &id.state); err != nil {
		return damaged(id.dir, identityFile, err)
	}
	id.HostID, id.Cluster = id.state.HostID, id.state.Cluster
	if len(id.state.Operators) == 0 {
		return fmt.Errorf("%w: it is of an older release and does not name the operators' authority, whose grants this host is to honour; %s, with --force",
			ErrDamagedIdentity, howToEnroll(id.state.Nodes))
	}
	if id.operators, err = operatorsOf(id.state.Operators, id.Cluster); err != nil {
		return damaged(id.dir, identityFile, err)
	}
	rootsPEM, err := os.ReadFile(filepath.Join(id.dir, rootsFile))
	if err != nil {
		return damaged(id.dir, rootsFile, err)
	}
	id.roots = x509.NewCertPool()
	if !id.roots.AppendCertsFromPEM(rootsPEM) {
		return damaged(id.dir, rootsFile, errors.New("it holds no certificate"))
	}
	if err := id.loadTrust(rootsPEM); err != nil {
		return damaged(id.dir, identityFile, err)
	}
	return id.loadPair()
}

// operatorsOf is the pool of the operators' authority alone.
func operatorsOf(der []byte, cluster string) (*x509.CertPool, error) {
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", operator.ErrBadRoot, err)
	}
	if err := operator.CheckRoot(root, cluster); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return pool, nil
}

func damaged(dir, name string, err error) error {
	return fmt.Errorf("%w: %s: %w; remove %s, then %s", ErrDamagedIdentity, name, err, dir, howToEnroll(nil))
}

func howToEnroll(nodes []string) string {
	node := "HOST:PORT"
	if len(nodes) > 0 {
		node = nodes[0]
	}
	return fmt.Sprintf("enrol: an operator runs 'vedette token create', and here 'sudo vedette-sensor enroll --coordinator %s --token TOKEN'", node)
}

// Reload reads key and certificate again: somebody may have enrolled anew.
func (id *Identity) Reload() error { return locked(id.dir, id.loadPair) }

// loadPair reads key and certificate; the folder is locked.
func (id *Identity) loadPair() error {
	if err := id.finishSwap(); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(id.dir, keyFile))
	if err != nil {
		return damaged(id.dir, keyFile, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s can be read by others (mode %o); if nobody did, 'chmod 600' it, else enrol again with --force",
			ErrDamagedIdentity, filepath.Join(id.dir, keyFile), info.Mode().Perm())
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(id.dir, certFile), filepath.Join(id.dir, keyFile))
	if err != nil {
		return damaged(id.dir, certFile+" and "+keyFile, err)
	}
	peer, err := link.PeerOf(cert.Leaf)
	if err != nil {
		return damaged(id.dir, certFile, err)
	}
	if peer.Kind != link.KindHost || peer.ID != id.HostID || peer.Cluster != id.Cluster {
		return damaged(id.dir, certFile, fmt.Errorf("it is for %s %s in %s, not for host %s in %s", peer.Kind, peer.ID, peer.Cluster, id.HostID, id.Cluster))
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.cert = &cert
	return nil
}

// expired wraps ErrExpired with the command that helps.
func (id *Identity) expired(now time.Time) error {
	cert, _ := id.Certificate()
	if now.Before(cert.Leaf.NotAfter) {
		return nil
	}
	return fmt.Errorf("%w on %s (host %s): %s", ErrExpired, cert.Leaf.NotAfter.UTC().Format(time.RFC3339), id.HostID, howToEnroll(id.Nodes()))
}

// Certificate is the current one, for link.Credentials.
func (id *Identity) Certificate() (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert, nil
}

// Roots are the cluster's authorities: who is a node.
func (id *Identity) Roots() *x509.CertPool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.roots
}

// OperatorRoots are the operators' authority: whose grants are honoured. It came with
// the enrolment, by the pin in the join token; its certificate may be renewed (package
// trust), and nothing changes its key but another enrolment.
func (id *Identity) OperatorRoots() *x509.CertPool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.operators
}

// Credentials are for dialling nodes.
func (id *Identity) Credentials() link.Credentials {
	return link.Credentials{Certificate: id.Certificate, Roots: id.Roots}
}

// Nodes are the addresses last learnt.
func (id *Identity) Nodes() []string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return slices.Clone(id.state.Nodes)
}

// setNodes remembers the cluster's node list; it says whether it changed.
func (id *Identity) setNodes(nodes []string) (bool, error) {
	nodes = nodes[:min(len(nodes), maxNodes)]
	id.mu.Lock()
	// An empty list would leave this host with nowhere to go.
	changed := len(nodes) > 0 && !slices.Equal(nodes, id.state.Nodes)
	if changed {
		id.state.Nodes = slices.Clone(nodes)
	}
	id.mu.Unlock()
	if !changed {
		return false, nil
	}
	return true, id.update(id.saveState)
}

// Resolved is the address that a node's name had when it was last reached; "" when it never was.
func (id *Identity) Resolved(node string) string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.state.Resolved[node]
}

func (id *Identity) setResolved(node, address string) error {
	if !id.resolvedTo(node, address) {
		return nil
	}
	return id.update(id.saveState)
}

// resolvedTo notes the address in memory; it says whether that is news to keep.
func (id *Identity) resolvedTo(node, address string) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	if node == address || id.state.Resolved[node] == address || len(id.state.Resolved) >= 4*maxNodes {
		return false
	}
	if id.state.Resolved == nil {
		id.state.Resolved = make(map[string]string)
	}
	id.state.Resolved[node] = address
	return true
}

// saveState writes identity.json; the folder is locked.
func (id *Identity) saveState() error {
	id.mu.Lock()
	data, err := json.MarshalIndent(id.state, "", "  ")
	id.mu.Unlock()
	if err != nil {
		return fmt.Errorf("writing identity: %w", err)
	}
	return replaceFile(filepath.Join(id.dir, identityFile), append(data, '\n'))
}

// renewal is a key whose certificate was asked for.
type renewal struct {
	key ed25519.PrivateKey
	csr []byte
}

// install takes the answer to a renewal: on disk first, then in use. Only a
// certificate for this very host, by a CA that is trusted already, is taken; roots
// never come with it (see takeTrust).
func (id *Identity) install(r *renewal, chain [][]byte, now time.Time) error {
	cert, err := id.verifyChain(r.key, chain, now)
	if err != nil {
		return fmt.Errorf("renewing certificate: %w", err)
	}
	if err := id.update(func() error { return id.swap(r.key, chain) }); err != nil {
		return fmt.Errorf("renewing certificate: %w", err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.cert = cert
	return nil
}

func (id *Identity) verifyChain(key ed25519.PrivateKey, chain [][]byte, now time.Time) (*tls.Certificate, error) {
	if len(chain) == 0 || len(chain) > 4 {
		return nil, fmt.Errorf("a chain of %d certificates", len(chain))
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, der := range chain[1:] {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		intermediates.AddCert(ca)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: id.Roots(), Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, err
	}
	peer, err := link.PeerOf(leaf)
	if err != nil {
		return nil, err
	}
	if peer.Kind != link.KindHost || peer.ID != id.HostID || peer.Cluster != id.Cluster {
		return nil, fmt.Errorf("it is for %s %q in %q", peer.Kind, peer.ID, peer.Cluster)
	}
	if !key.Public().(ed25519.PublicKey).Equal(leaf.PublicKey) {
		return nil, errors.New("it is for another key")
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// swap replaces key and certificate so that a crash at any point leaves a pair
// that finishSwap can find: the new key stays beside until the certificate is in.
// The folder is locked.
func (id *Identity) swap(key ed25519.PrivateKey, chain [][]byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keyPath := filepath.Join(id.dir, keyFile)
	if err := writeFile(keyPath+".new", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(id.dir, certFile), encodeChain(chain)); err != nil {
		return err
	}
	if err := os.Rename(keyPath+".new", keyPath); err != nil {
		return err
	}
	return syncDir(id.dir)
}

// finishSwap completes a swap that a crash cut short, or forgets one that had
// not got as far as the certificate.
func (id *Identity) finishSwap() error {
	keyPath, certPath := filepath.Join(id.dir, keyFile), filepath.Join(id.dir, certFile)
	if _, err := os.Stat(keyPath + ".new"); err != nil {
		return nil
	}
	var err error
	if _, pairErr := tls.LoadX509KeyPair(certPath, keyPath+".new"); pairErr == nil {
		err = os.Rename(keyPath+".new", keyPath)
	} else {
		err = os.Remove(keyPath + ".new")
	}
	if err != nil {
		return fmt.Errorf("completing a certificate renewal: %w", err)
	}
	return nil
}

func encodeChain(chain [][]byte) []byte {
	var buf bytes.Buffer
	for _, der := range chain {
		buf.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return buf.Bytes()
}

// replaceFile makes the whole of path new, or leaves it as it was.
func replaceFile(path string, data []byte) error {
	if err := writeFile(path+".new", data); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeFile(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
