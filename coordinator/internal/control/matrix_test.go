package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	operators "github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func emptyStore(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Ensure every procedure of the service is served to exactly the roles of the table, and
// to nobody without a certificate, with another's, or with one that counts no more. What
// is called comes from the service itself: a procedure that somebody adds is called too.
func TestEveryProcedureByEverybody(t *testing.T) {
	authority, err := identity.NewAuthority("c-test")
	if err != nil {
		t.Fatal(err)
	}
	people, err := operators.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	another, err := operators.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := operators.New("c-other")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := people.Delegate("bob", 0)
	if err != nil {
		t.Fatal(err)
	}
	nodeKey, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	nodeChain, err := authority.SignNode(nodeKey.Public(), "n1", []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	node := tls.Certificate{Certificate: nodeChain, PrivateKey: nodeKey}
	_, hostKey, _ := ed25519.GenerateKey(rand.Reader)
	csr, err := identity.NewRequest(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	hostChain, err := authority.SignHost(csr, identity.NewHostID())
	if err != nil {
		t.Fatal(err)
	}
	signed := func(a *operators.Authority, name, role string) *tls.Certificate {
		t.Helper()
		public, private, _ := ed25519.GenerateKey(rand.Reader)
		chain, err := a.Sign(public, name, role, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: chain, PrivateKey: private}
	}
	db := emptyStore(t)
	revoked := &sensorv1.Revocations{Operator: "ann", Operators: []*sensorv1.RevokedOperator{{Name: "bob", At: 1}, {Name: "rex", At: 1}}}
	if err := db.Update(1, func(tx *store.Tx) error { return tx.PutRevocations(&sensorv1.SignedRevocations{}, revoked, "left") }); err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{Log: &oneLog{}, Operators: people.Root, Authority: authority, Certificate: func() (*tls.Certificate, error) { return &node, nil },
		DB: db, Logger: slog.New(slog.DiscardHandler), Now: time.Now}, denied: map[string]uint64{}}
	server := httptest.NewUnstartedServer(s.authorise(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })))
	server.TLS = s.TLS()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	defer server.Close()

	const nobody, denied = "n", 403
	callers := []struct {
		name string
		cert *tls.Certificate
		role int // the column of the table; -1: nobody
		code int // when refused; 0: the handshake fails
	}{
		{"viewer", signed(people, "ann", operators.RoleViewer), 0, denied},
		{"hunter", signed(people, "ann", operators.RoleHunter), 1, denied},
		{"responder", signed(people, "ann", operators.RoleResponder), 2, denied},
		{"admin", signed(people, "ann", operators.RoleAdmin), 3, denied},
		{"no certificate", nil, -1, 0},
		{"another authority", signed(another, "ann", operators.RoleAdmin), -1, 0},
		{"another cluster's operator", signed(elsewhere, "ann", operators.RoleAdmin), -1, 0},
		{"a host", &tls.Certificate{Certificate: hostChain, PrivateKey: hostKey}, -1, 0},
		{"a node", &node, -1, 0},
		{"a stolen node", ptr(signedByNode(t, authority, "ann", operators.RoleAdmin)), -1, 0},
		{"revoked", signed(people, "rex", operators.RoleAdmin), -1, 401},
		{"made by a revoked admin", signed(bob, "eve", operators.RoleAdmin), -1, 401},
		{"an authority itself", &tls.Certificate{Certificate: [][]byte{bob.Certificate().Raw}, PrivateKey: bob.Key()}, -1, 401},
	}
	service := operatorv1.File_vedette_operator_proto.Services().ByName("OperatorService")
	calls := 0
	for _, caller := range callers {
		config := &tls.Config{RootCAs: authority.Roots(), ServerName: identity.NodeServerName, MinVersion: tls.VersionTLS13}
		if caller.cert != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return caller.cert, nil }
		}
		transport := &http.Transport{TLSClientConfig: config}
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i).Name()
			allowed := nobody
			if row := wanted[string(method)]; caller.role >= 0 && len(row) == len(roles) {
				allowed = row[caller.role : caller.role+1]
			} else if len(row) != len(roles) {
				t.Errorf("%s is in no row of this test's table", method)
			}
			got := call(t, transport, fmt.Sprintf("%s/%s/%s", server.URL, service.FullName(), method))
			calls++
			want := caller.code
			if allowed == "y" {
				want = 200
			}
			if got != want {
				t.Errorf("%s calls %s: got %d, want %d", caller.name, method, got, want)
			}
		}
		transport.CloseIdleConnections()
	}
	t.Logf("%d calls: %d procedures by %d callers", calls, service.Methods().Len(), len(callers))
}

// call is the status of an answer, 0 when there is none.
func call(t *testing.T, transport *http.Transport, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}
