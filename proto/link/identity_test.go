package link_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/link"
)

// Ensure only a well-formed identity is one.
func TestPeerOf(t *testing.T) {
	parse := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, tt := range []struct {
		uris  []string
		roles []string
		want  link.Peer
		bad   bool
	}{
		{uris: []string{"vedette://c-1/host/h-abc"}, want: link.Peer{Cluster: "c-1", Kind: "host", ID: "h-abc"}},
		{uris: []string{"vedette://c-1/node/n1"}, want: link.Peer{Cluster: "c-1", Kind: "node", ID: "n1"}},
		{uris: []string{"vedette://c-1/operator/a@example.org"}, roles: []string{"admin"}, want: link.Peer{Cluster: "c-1", Kind: "operator", ID: "a@example.org", Role: "admin"}},
		{uris: []string{"vedette://c-1/operator/alice"}, bad: true},
		{uris: []string{"vedette://c-1/operator/alice"}, roles: []string{"viewer", "admin"}, bad: true},
		{uris: nil, bad: true},
		{uris: []string{"vedette://c-1/host/h-1", "vedette://c-1/node/n1"}, bad: true},
		{uris: []string{"spiffe://c-1/host/h-1"}, bad: true},
		{uris: []string{"vedette://c-1/root/h-1"}, bad: true},
		{uris: []string{"vedette://c-1/host/"}, bad: true},
		{uris: []string{"vedette://c-1/host/a/b"}, bad: true},
		{uris: []string{"vedette://c-1/host/a%2fb"}, bad: true},
		{uris: []string{"vedette://c-1/host/a%20b"}, bad: true},
		{uris: []string{"vedette:///host/h-1"}, bad: true},
		{uris: []string{"vedette://u@c-1/host/h-1"}, bad: true},
		{uris: []string{"vedette://c-1/host/h-1?x=1"}, bad: true},
		{uris: []string{"vedette://c-1/host/" + strings.Repeat("a", 200)}, bad: true},
	} {
		cert := &x509.Certificate{Subject: pkix.Name{OrganizationalUnit: tt.roles}}
		for _, text := range tt.uris {
			cert.URIs = append(cert.URIs, parse(text))
		}
		got, err := link.PeerOf(cert)
		if tt.bad {
			if !errors.Is(err, link.ErrBadIdentity) {
				t.Errorf("%v: got %+v, %v", tt.uris, got, err)
			}
			continue
		}
		tt.want.Certificate = cert
		if err != nil || got != tt.want {
			t.Errorf("%v: got %+v, %v", tt.uris, got, err)
		}
		if uri := link.PeerURI(got.Cluster, got.Kind, got.ID).String(); uri != tt.uris[0] {
			t.Errorf("written back: %s", uri)
		}
	}
	if _, err := link.PeerOf(nil); !errors.Is(err, link.ErrBadIdentity) {
		t.Errorf("nil: %v", err)
	}
}

// Ensure a token survives being copied by people and is not shown by a log.
func TestToken(t *testing.T) {
	token := link.NewToken([32]byte{1, 2, 3}, [32]byte{4, 5})
	text := token.String()
	for _, copied := range []string{text, " " + text + "\n"} {
		got, err := link.ParseToken(copied)
		if err != nil || got != token {
			t.Errorf("%q: got %+v, %v", copied, got, err)
		}
	}
	parts := strings.Split(text, ".")
	if len(parts) != 5 || len(parts[1]) != 12 || len(parts[2]) != 26 || len(parts[3]) != 43 || len(parts[4]) != 43 {
		t.Errorf("form: %q", text)
	}
	if !token.SecretEqual(token.Secret[:]) || token.SecretEqual(nil) || token.SecretEqual(make([]byte, 16)) {
		t.Error("SecretEqual")
	}
	for _, bad := range []string{"", "vdt2", text[1:], text + ".x", text[:len(text)-2], strings.Replace(text, parts[1], "short", 1), strings.Replace(text, parts[2], parts[2][1:], 1)} {
		_, err := link.ParseToken(bad)
		if !errors.Is(err, link.ErrBadToken) {
			t.Errorf("%q: got %v", bad, err)
		} else if strings.Contains(err.Error(), parts[2]) {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
	older := strings.Join(append([]string{"vdt1"}, parts[1:4]...), ".")
	if _, err := link.ParseToken(older); !errors.Is(err, link.ErrBadToken) || !strings.Contains(err.Error(), "make a new one") {
		t.Errorf("a token of an older release: got %v", err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("joining", "token", token)
	if strings.Contains(log.String(), parts[2]) || !strings.Contains(log.String(), parts[1]) {
		t.Errorf("logged: %s", log.String())
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(link.NewToken([32]byte{9}, [32]byte{8}).String())
	f.Add("vdt2....")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := link.ParseToken(text)
		if err != nil {
			return
		}
		again, err := link.ParseToken(token.String())
		if err != nil || again != token {
			t.Fatalf("%q: %+v, %v", text, again, err)
		}
	})
}
