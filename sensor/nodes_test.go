package sensor

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
)

// Ensure names are looked up only by resolve, and that the last good answer
// stays when a name cannot be resolved any more, as on an isolated host.
func TestNodeBook(t *testing.T) {
	asked := 0
	answer := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	var failure error
	book := newNodeBook(
		func() []string {
			return []string{"c1.example.org:7443", "10.0.0.9:7443", "[fd00::9]:7443", "c2.example.org:7443"}
		},
		func(node string) string {
			if node == "c2.example.org:7443" {
				return "10.0.0.2:7443"
			}
			return ""
		},
		slog.New(slog.DiscardHandler))
	book.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		asked++
		if host == "c2.example.org" {
			return nil, errors.New("no such host")
		}
		return answer, failure
	}
	want := func(texts ...string) {
		t.Helper()
		var endpoints []netip.AddrPort
		for _, text := range texts {
			endpoints = append(endpoints, netip.MustParseAddrPort(text))
		}
		if got := book.addresses(); !slices.Equal(got, endpoints) {
			t.Errorf("got %v, want %v", got, endpoints)
		}
	}
	want("10.0.0.9:7443", "[fd00::9]:7443", "10.0.0.2:7443")
	if asked != 0 {
		t.Errorf("addresses looked %d names up", asked)
	}
	book.resolve(t.Context())
	full := []string{"10.0.0.1:7443", "[fd00::1]:7443", "10.0.0.9:7443", "[fd00::9]:7443", "10.0.0.2:7443"}
	want(full...)
	failure = errors.New("the network is cut")
	book.resolve(t.Context())
	want(full...)
	failure, answer = nil, answer[:1]
	book.resolve(t.Context())
	want("10.0.0.1:7443", "10.0.0.9:7443", "[fd00::9]:7443", "10.0.0.2:7443")
}
