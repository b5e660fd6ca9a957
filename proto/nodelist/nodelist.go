// Package nodelist signs and verifies where the coordinators are, for hosts that are
// isolated: the few addresses that stay open to them.
//
// Invariant: a list that Verify accepts was signed by an admin of this cluster for
// exactly these bytes, and names between one and MaxNodes distinct unicast endpoints.
// Which of two lists is the newer is its serial's to say, and to keep it from going
// back the holder's: a node can only carry a list, withhold it, or bring an old one.
//
// Addresses are literals: an isolated host can ask no name server, and a name would
// let whoever answers for it choose what is opened.
package nodelist

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// context separates a list's signature from any other use of the same key.
const context = "vedette-nodes-v1\x00"

// maySign are the roles that say who is in the cluster.
var maySign = []string{"admin"}

const (
	// MaxNodes is how many endpoints can stay open to an isolated host.
	MaxNodes = 32
	// MaxPayload bounds a payload, in bytes: MaxNodes of the longest names and addresses.
	MaxPayload = 8 << 10
	// clockSkew is how far in the future a list may have been signed.
	clockSkew = 5 * time.Minute
)

var (
	// ErrMalformed: not a list of nodes, or one that breaks a bound.
	ErrMalformed = errors.New("malformed list of nodes")
	// ErrTime: the list has ended, or was signed in the future.
	ErrTime = errors.New("list of nodes is out of its time")
	// ErrSignature: the signature is not the certificate's over these bytes.
	ErrSignature = grant.ErrSignature
	// ErrUntrusted: the signer's certificate does not chain to the operators' authority, or is out of its validity.
	ErrUntrusted = grant.ErrUntrusted
	// ErrForbidden: the signer is no admin.
	ErrForbidden = grant.ErrForbidden
	// ErrForeign: the list is for another cluster.
	ErrForeign = grant.ErrForeign
)

// Sign makes the signed form of l by the admin who gives it. The chain is the
// operator's certificate, leaf first, DER; the key must be Ed25519 and belong to it.
func Sign(key crypto.Signer, chain [][]byte, l *sensorv1.NodeAddresses) (*sensorv1.SignedNodes, error) {
	payload, err := Encode(l)
	if err != nil {
		return nil, fmt.Errorf("signing the list of nodes: %w", err)
	}
	signature, err := grant.SignAs(context, key, chain, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the list of nodes: %w", err)
	}
	return &sensorv1.SignedNodes{Payload: payload, Signature: signature}, nil
}

// Encode is the one encoding of l, whatever the order of its nodes.
func Encode(l *sensorv1.NodeAddresses) ([]byte, error) {
	l = proto.CloneOf(l)
	slices.SortFunc(l.GetNodes(), compare)
	if err := check(l); err != nil {
		return nil, err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding the list of nodes: %w", err)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	return payload, nil
}

// Decode reads a payload that nobody has verified. It accepts one encoding of a list
// only: what is signed must not have two readings.
func Decode(payload []byte) (*sensorv1.NodeAddresses, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	l := new(sensorv1.NodeAddresses)
	// What is not known is left out at any depth, so that it shows below.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not in its canonical form, or from a newer version: upgrade", ErrMalformed)
	}
	if err := check(l); err != nil {
		return nil, err
	}
	return l, nil
}

// Verify returns the list and the admin who signed it, whose certificate must be valid
// now. That no newer one is held is the caller's to know.
func Verify(signed *sensorv1.SignedNodes, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.NodeAddresses, link.Peer, error) {
	l, err := Decode(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	if l.GetClusterId() != cluster {
		return nil, link.Peer{}, fmt.Errorf("the list of nodes is %w: it is for %q, this is %q", ErrForeign, l.GetClusterId(), cluster)
	}
	end := time.Unix(0, l.GetNotAfter())
	switch at := Signed(l); {
	case !end.After(now):
		return nil, link.Peer{}, fmt.Errorf("%w: it ended at %s and it is %s here; sign a new one with 'vedette cluster sign-nodes'", ErrTime, stamp(end), stamp(now))
	case at.After(now.Add(clockSkew)):
		// One from far in the future would make hosts refuse every list that comes after it.
		return nil, link.Peer{}, fmt.Errorf("%w: it was signed at %s and it is %s here; compare the clocks", ErrTime, stamp(at), stamp(now))
	}
	signer, err := grant.VerifyAs(context, maySign, signed.GetSignature(), signed.GetPayload(), roots, cluster, now)
	switch {
	case errors.Is(err, grant.ErrMalformed):
		return nil, link.Peer{}, fmt.Errorf("%w: its certificates cannot be read; sign it again", ErrMalformed)
	case err != nil:
		return nil, link.Peer{}, fmt.Errorf("the list of nodes: %w", err)
	case signer.ID != l.GetOperator():
		return nil, link.Peer{}, fmt.Errorf("the list of nodes: %w: it names %q and %q signed it", ErrForbidden, l.GetOperator(), signer.ID)
	case end.After(signer.Certificate.NotAfter):
		// So that not_after alone says how long a list is good for.
		return nil, link.Peer{}, fmt.Errorf("%w: it ends at %s, after its signer's certificate (%s)", ErrTime, stamp(end), stamp(signer.Certificate.NotAfter))
	}
	return l, signer, nil
}

// Signed is when a list was signed, which is its serial.
func Signed(l *sensorv1.NodeAddresses) time.Time {
	return time.Unix(0, int64(l.GetSerial())) //nolint:gosec // checked by Encode and Decode
}

// Endpoints are the addresses of a list that Decode returned.
func Endpoints(l *sensorv1.NodeAddresses) []netip.AddrPort {
	endpoints := make([]netip.AddrPort, 0, len(l.GetNodes()))
	for _, n := range l.GetNodes() {
		if endpoint, err := netip.ParseAddrPort(n.GetAddress()); err == nil {
			endpoints = append(endpoints, endpoint)
		}
	}
	return endpoints
}

// Covers says whether a list, nil for none, names the node at the address HOST:PORT.
// Of a host's name it can only be said that the node is on the list with that port.
func Covers(l *sensorv1.NodeAddresses, id, address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	literal, err := netip.ParseAddr(host)
	named := err != nil
	for _, n := range l.GetNodes() {
		endpoint, err := netip.ParseAddrPort(n.GetAddress())
		if err != nil || n.GetId() != id || fmt.Sprint(endpoint.Port()) != port {
			continue
		}
		if named || endpoint.Addr() == literal.Unmap() {
			return true
		}
	}
	return false
}

// CheckAddress accepts IP:PORT of one machine, in its one spelling.
func CheckAddress(address string) error {
	endpoint, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: address %q is no IP:PORT", ErrMalformed, address)
	}
	ip := endpoint.Addr()
	switch {
	case endpoint.String() != address || ip.Is4In6() || ip.Zone() != "":
		return fmt.Errorf("%w: address %q has another spelling, %s", ErrMalformed, address, netip.AddrPortFrom(ip.Unmap().WithZone(""), endpoint.Port()))
	case ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || endpoint.Port() == 0:
		return fmt.Errorf("%w: address %q is not that of one machine and a port", ErrMalformed, address)
	}
	return nil
}

// check is what makes a list one. The order is part of it, so that a set of nodes has
// one encoding.
func check(l *sensorv1.NodeAddresses) error {
	switch {
	case l.GetClusterId() == "":
		return fmt.Errorf("%w: no cluster id", ErrMalformed)
	case l.GetOperator() == "":
		return fmt.Errorf("%w: nobody is named as its signer", ErrMalformed)
	case l.GetSerial() == 0 || l.GetSerial() > math.MaxInt64:
		return fmt.Errorf("%w: serial %d is no time of signing", ErrMalformed, l.GetSerial())
	case l.GetNotAfter() <= int64(l.GetSerial()): //nolint:gosec // looked at above
		return fmt.Errorf("%w: it ends before it was signed", ErrMalformed)
	case len(l.GetNodes()) == 0 || len(l.GetNodes()) > MaxNodes:
		return fmt.Errorf("%w: %d addresses; 1 to %d can stay open to an isolated host", ErrMalformed, len(l.GetNodes()), MaxNodes)
	case !slices.IsSortedFunc(l.GetNodes(), compare):
		return fmt.Errorf("%w: its nodes are not in order", ErrMalformed)
	}
	seen := make(map[string]bool, len(l.GetNodes()))
	for _, n := range l.GetNodes() {
		if err := link.CheckName("node id", n.GetId()); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if err := CheckAddress(n.GetAddress()); err != nil {
			return err
		}
		if seen[n.GetAddress()] {
			return fmt.Errorf("%w: address %s is on it twice", ErrMalformed, n.GetAddress())
		}
		seen[n.GetAddress()] = true
	}
	return nil
}

func compare(a, b *sensorv1.NodeAddress) int {
	return cmp.Or(cmp.Compare(a.GetId(), b.GetId()), cmp.Compare(a.GetAddress(), b.GetAddress()))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
