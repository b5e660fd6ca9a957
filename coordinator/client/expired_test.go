package client_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// Ensure an operator whose certificate has expired is told so before anything is dialled.
func TestExpiredOperator(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	cert := ca.IssueBetween(link.KindOperator, "ada", "admin", now.Add(-2*time.Hour), now.Add(-time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	_, err = client.New(&client.Context{Name: "t", Nodes: []string{closed(t)}, CA: text("CERTIFICATE", ca.Certificate.Raw), Operators: text("CERTIFICATE", ca.Certificate.Raw),
		Certificate: text("CERTIFICATE", cert.Certificate[0]), Key: text("PRIVATE KEY", key), ClusterID: linktest.Cluster}, client.Options{})
	if !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), "ask an admin of the cluster for a new context file") {
		t.Errorf("got %v, want %v and what to do", err, client.ErrDenied)
	}
}
