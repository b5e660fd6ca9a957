package control

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/link"
	operators "github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// wanted is who may call what: viewer, hunter, responder, admin.
var wanted = map[string]string{
	"GetStatus": "yyyy", "ListHosts": "yyyy", "GetHost": "yyyy", "GetHostHistory": "yyyy", "ListFindings": "yyyy", "GetFinding": "yyyy",
	"ListIncidents": "yyyy", "GetIncident": "yyyy", "SelectHosts": "yyyy", "ListIsolations": "yyyy", "GetOperation": "yyyy",
	"ListAudit": "yyyy", "ListMembers": "yyyy", "Watch": "yyyy",
	"ListCampaigns": "yyyy", "GetCampaign": "yyyy",
	"ListInvestigations": "yyyy", "GetInvestigation": "yyyy",
	"CloseIncident": "nyyy",
	"SubmitGrant":   "nnyy",
	"PreviewOrder":  "yyyy", "ListOperations": "yyyy", "ApproveOperation": "nnyy", "VetoOperation": "nnyy",
	"GetIntent": "yyyy", "ListIntents": "yyyy", "TestIntent": "yyyy", "GetScorecard": "yyyy", "ApplyIntent": "nnny",
	"CreateToken": "nnny", "RemoveMember": "nnny", "PutSignedNodes": "nnny", "DebugInfo": "nnny", "Backup": "nnny",
	"ListOperators": "yyyy", "ListCheckpoints": "yyyy", "PutRevocations": "nnny", "RemoveHost": "nnny",
	"Hunt":     "nyyy",
	"GetTrust": "yyyy", "PrepareRoot": "nnny", "PutTrust": "nnny",
	"ListBehaviours": "yyyy", "DiffBaselines": "yyyy", "ListRoles": "yyyy", "ListRollOuts": "yyyy", "ListUnlearns": "yyyy", "GetPack": "yyyy",
	"PutPack": "nyyy", "Unlearn": "nnyy",
	"PutDrills": "nyyy", "ListDrills": "yyyy",
	"PutRules": "nnny", "HaltRules": "nnyy", "GetRules": "yyyy", "ListRules": "yyyy",
}

// Ensure every procedure of the service has exactly the roles written here, and
// that a procedure which somebody adds is denied until it is written here too.
func TestRoles(t *testing.T) {
	want := wanted
	service := operatorv1.File_vedette_operator_proto.Services().ByName("OperatorService")
	methods := service.Methods()
	if methods.Len() != len(want) || methods.Len() != len(least) {
		t.Errorf("the service has %d procedures, the table %d, this test %d", methods.Len(), len(least), len(want))
	}
	for i := range methods.Len() {
		name := string(methods.Get(i).Name())
		procedure := "/" + string(service.FullName()) + "/" + name
		got := ""
		for _, role := range roles {
			if _, ok := may(role, procedure); ok {
				got += "y"
			} else {
				got += "n"
			}
		}
		if got != want[name] {
			t.Errorf("%s: got %s, want %s", name, got, want[name])
		}
		for _, role := range []string{"", "root", "Admin"} {
			if _, ok := may(role, procedure); ok {
				t.Errorf("%s: role %q may call it", name, role)
			}
		}
	}
	if needed, ok := may(operators.RoleAdmin, "/vedette.operator.v1.OperatorService/Unheard"); ok || needed != "" {
		t.Errorf("a procedure that is not in the table: got %q, %v", needed, ok)
	}
}

// Ensure the certificate alone says who calls, and that a denial says what is missing.
func TestAuthorise(t *testing.T) {
	authority, err := identity.NewAuthority("c-test")
	if err != nil {
		t.Fatal(err)
	}
	people, err := operators.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	operatorCert := func(a *operators.Authority, role string) tls.Certificate {
		public, private, _ := ed25519.GenerateKey(rand.Reader)
		chain, err := a.Sign(public, "ann", role, 0)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: chain, PrivateKey: private}
	}
	bob, err := people.Delegate("bob", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, hostKey, _ := ed25519.GenerateKey(rand.Reader)
	csr, err := identity.NewRequest(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	hostChain, err := authority.SignHost(csr, identity.NewHostID())
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
	nodeCert := tls.Certificate{Certificate: nodeChain, PrivateKey: nodeKey}
	now := time.Now
	log := &oneLog{}
	s := &Server{cfg: Config{Log: log, Operators: people.Root, Authority: authority, Certificate: func() (*tls.Certificate, error) { return &nodeCert, nil }, Logger: slog.New(slog.DiscardHandler), DB: emptyStore(t), Now: func() time.Time { return now() }}, denied: map[string]uint64{}}
	server := httptest.NewUnstartedServer(s.authorise(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "served to "+actor(r.Context()))
	})))
	server.TLS = s.TLS()
	server.StartTLS()
	defer server.Close()
	const token, status = "/vedette.operator.v1.OperatorService/CreateToken", "/vedette.operator.v1.OperatorService/GetStatus"
	for _, tt := range []struct {
		name, path string
		cert       *tls.Certificate
		code       int
		says       string
	}{
		{"admin", token, ptr(operatorCert(people, operators.RoleAdmin)), 200, "served to operator:ann"},
		{"viewer reads", status, ptr(operatorCert(people, operators.RoleViewer)), 200, "served to operator:ann"},
		{"viewer writes", token, ptr(operatorCert(people, operators.RoleViewer)), 403, `needs role \"admin\"`},
		{"responder writes", token, ptr(operatorCert(people, operators.RoleResponder)), 403, `has role \"responder\"`},
		{"unknown path", "/", ptr(operatorCert(people, operators.RoleAdmin)), 403, "nothing that an operator may call"},
		{"made by another admin", token, ptr(operatorCert(bob, operators.RoleAdmin)), 200, "served to operator:ann"},
		{"unfit: what is it that it has?", status, ptr(operatorCert(people, operators.RoleViewer)), 200, "served to operator:ann"},
		{"unfit: anything else", token, ptr(operatorCert(people, operators.RoleAdmin)), 503, "its state differs"},
		{"unfit: who may not is told that", token, ptr(operatorCert(people, operators.RoleViewer)), 403, `needs role \"admin\"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if log.unfit = nil; strings.HasPrefix(tt.name, "unfit") {
				log.unfit = errors.New("its state differs")
			}
			body, code, err := post(t, server.URL+tt.path, authority, tt.cert)
			if err != nil {
				t.Fatal(err)
			}
			if code != tt.code || !strings.Contains(body, tt.says) {
				t.Errorf("got %d %s, want %d saying %s", code, body, tt.code, tt.says)
			}
		})
	}
	// Who is not signed by the operators' authority does not get through the handshake:
	// what a stolen node holds, and what it can sign, makes nobody an operator.
	log.unfit = nil
	other, err := operators.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]*tls.Certificate{
		"no certificate":    nil,
		"a host's":          {Certificate: hostChain, PrivateKey: hostKey},
		"a node's":          &nodeCert,
		"a stolen node's":   ptr(signedByNode(t, authority, "ann", operators.RoleAdmin)),
		"another authority": ptr(operatorCert(other, operators.RoleAdmin)),
		"an authority's":    {Certificate: [][]byte{bob.Certificate().Raw}, PrivateKey: bob.Key()},
	} {
		body, code, err := post(t, server.URL+status, authority, cert)
		if name == "an authority's" { // it may shake hands, and is nobody
			if err != nil || code != 401 || !strings.Contains(body, "no vedette identity") {
				t.Errorf("%s: got %d %s, %v", name, code, body, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: got %d %s", name, code, body)
		}
	}
	t.Run("expired on an open connection", func(t *testing.T) {
		cert := operatorCert(people, operators.RoleAdmin)
		now = func() time.Time { return time.Now().Add(2 * operators.Lifetime) }
		defer func() { now = time.Now }()
		body, code, err := post(t, server.URL+status, authority, &cert)
		if err != nil || code != 401 || !strings.Contains(body, "has expired") {
			t.Errorf("got %d %s %v", code, body, err)
		}
	})
}

// signedByNode is an operator's certificate as whoever has a node's files can make it.
func signedByNode(t *testing.T, authority *identity.Authority, name, role string) tls.Certificate {
	t.Helper()
	der, err := authority.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject:   pkix.Name{CommonName: name, OrganizationalUnit: []string{role}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{link.PeerURI(authority.Cluster(), link.KindOperator, name)},
	}, authority.Certificate(), public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf, authority.Certificate().Raw}, PrivateKey: private}
}

func ptr[T any](v T) *T { return &v }

func post(t *testing.T, url string, authority *identity.Authority, cert *tls.Certificate) (body string, code int, err error) {
	t.Helper()
	config := &tls.Config{RootCAs: authority.Roots(), ServerName: identity.NodeServerName, MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return "", 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	return string(raw), response.StatusCode, err
}
