package identity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/mutation"
	"github.com/vedette-edr/vedette/proto/link"
)

// Ensure a node's keys, certificates and its description are read as they were written, or
// refused with the place.
func TestIdentityMutations(t *testing.T) {
	dir := t.TempDir()
	whole := newTestNode(t, dir)
	files := map[string][]byte{}
	want := facts(t, whole)
	for _, name := range []string{"cluster.json", "ca.crt", "ca.key", "operators.crt", "node.crt", "node.key"} {
		path := filepath.Join(dir, name)
		var err error
		if files[name], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		mutation.Each(t, name, files[name], func(damaged []byte) (string, error) {
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				return "", err
			}
			defer func() { _ = os.WriteFile(path, files[name], 0o600) }()
			n, err := Load(dir)
			if err != nil {
				if !bytes.Contains([]byte(err.Error()), []byte(dir)) {
					return "", fmt.Errorf("it does not say where: %w", err)
				}
				return "refused", nil
			}
			if got := facts(t, n); !reflect.DeepEqual(got, want) {
				return "", errors.New("it is taken for another identity")
			}
			return "harmless", nil
		})
	}
}

// facts are all that an identity says.
func facts(t *testing.T, n *Node) []any {
	t.Helper()
	cert, cerr := n.Certificate()
	key, kerr := n.Authority().KeyDER()
	if err := errors.Join(cerr, kerr); err != nil {
		t.Fatal(err)
	}
	m := n.Membership()
	m.Sum = "" // without it the rest is what it was
	// A node whose chain lacks its end makes itself another certificate, for the same key.
	peer, err := link.PeerOf(cert.Leaf)
	if err != nil || !signedBy(cert.Leaf, n.Authority().Certificate()) {
		t.Fatalf("the node's certificate: %v, or not by its authority", err)
	}
	return []any{m, key, n.Authority().Certificate().Raw, n.Operators().Raw, peer.Cluster, peer.Kind, peer.ID, cert.Leaf.PublicKey, cert.PrivateKey}
}
