package lab

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// reissue replaces the host's certificate by one that the cluster's own CA signs
// for the same key, with other dates.
func (r *rig) reissue(t *testing.T, notBefore, notAfter time.Time) {
	t.Helper()
	dir := r.lab.NodeDir("c1")
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	old, err := tls.LoadX509KeyPair(r.state("identity", "host.crt"), r.state("identity", "host.key"))
	if err != nil {
		t.Fatal(err)
	}
	template := *old.Leaf
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = notBefore, notAfter
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Leaf, old.PrivateKey.(crypto.Signer).Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, r.state("identity", "host.crt"), chainPEM(der, ca.Leaf.Raw))
}

func chainPEM(chain ...[]byte) (text []byte) {
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// untilLogged waits for one line of the sensor's log with all of these.
func (r *rig) untilLogged(t *testing.T, parts ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("wanted %q in a line of\n%s", parts, r.log(t))
		}
	}()
	r.until(t, 15*time.Second, "the sensor's log", func(context.Context) (bool, error) { return r.logged(t, parts...) > 0, nil })
}

// Ensure a host whose certificate has expired says so with the command that helps,
// goes on watching, and tells what it found meanwhile when it is enrolled again.
func TestExpiredCertificate(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.stop(t)
	r.reissue(t, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
	r.again(t)
	node := r.cluster.Nodes[0].Listen
	r.untilLogged(t, "level=ERROR", "expired", "vedette token create", "sudo vedette-sensor enroll --coordinator "+node+" --token TOKEN")
	r.run(t, shell, "-c", "true", "while-expired")
	r.until(t, 5*time.Second, "the spool to have it", func(context.Context) (bool, error) { return r.spooled(t, "while-expired"), nil })

	// The node refuses it as well, whoever uses it.
	i := &intruder{rig: r, creds: credentials(t, r.state("identity"))}
	if conn, err := i.dial(t.Context()); err == nil {
		if _, err = conn.AcceptStream(t.Context()); err == nil {
			t.Error("the node took an expired certificate")
		}
	}
	// What the line says, done.
	token, err := r.cluster.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.run(t, filepath.Join(r.lab.Bin, "vedette-sensor"), "enroll", "--config", r.state("sensor.yaml"), "--coordinator", node, "--token", token)
	r.stop(t)
	r.again(t)
	r.until(t, 20*time.Second, "what was found meanwhile", func(ctx context.Context) (bool, error) {
		all, err := r.found(ctx, shell)
		return len(all) == 1, err
	})
}

// Ensure identities of another cluster, another host or another time get a message
// that says what is wrong and what to do.
func TestForeignIdentity(t *testing.T) {
	r := newRig(t)
	r.stop(t)
	own := credentials(t, r.state("identity"))
	cert, err := own.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := link.PeerOf(cert.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	foreign := linktest.NewCAFor(t, peer.Cluster)
	issue := func(id string) tls.Certificate {
		return foreign.IssueBetween(link.KindHost, id, "", time.Now().Add(-time.Hour), time.Now().Add(23*time.Hour))
	}
	keep := map[string][]byte{}
	for _, name := range []string{"host.key", "host.crt", "roots.pem"} {
		if keep[name], err = os.ReadFile(r.state("identity", name)); err != nil {
			t.Fatal(err)
		}
	}
	put := func(t *testing.T, c tls.Certificate) {
		t.Helper()
		der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		overwrite(t, r.state("identity", "host.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		overwrite(t, r.state("identity", "host.crt"), chainPEM(c.Certificate...))
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T)
		says  []string
	}{
		"signed by another CA": {func(t *testing.T) { put(t, issue(peer.ID)) }, []string{"level=ERROR", "enroll"}},
		"another cluster": {func(t *testing.T) {
			put(t, issue(peer.ID))
			overwrite(t, r.state("identity", "roots.pem"), chainPEM(foreign.Certificate.Raw))
		}, []string{"level=ERROR", "foreign-ca", "another cluster", "--force"}},
		"not yet valid": {func(t *testing.T) { r.reissue(t, time.Now().Add(time.Hour), time.Now().Add(25*time.Hour)) },
			[]string{"level=ERROR", "clock"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.spoil(t)
			defer func() {
				for file, raw := range keep {
					overwrite(t, r.state("identity", file), raw)
				}
			}()
			if err := os.Remove(r.sensor.LogPath); err != nil {
				t.Fatal(err)
			}
			overwrite(t, r.sensor.LogPath, nil)
			r.again(t)
			defer r.stop(t)
			r.untilLogged(t, c.says...)
			if n := r.logged(t, "level=ERROR"); n > 2 {
				t.Errorf("it says so %d times", n)
			}
		})
	}
	r.again(t)
	r.untilLogged(t, "session with the coordinator")
	if strings.Contains(r.log(t), "PRIVATE KEY") {
		t.Error("a key is in the log")
	}
}
