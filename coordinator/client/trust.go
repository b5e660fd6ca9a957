package client

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

// trustHeader carries epochs: of the context in a request, of the cluster in the answer.
const trustHeader = "Vedette-Trust"

// follow goes by a list of trusted authorities, as a context has it; "" is none.
func (id *identity) follow(text string) error {
	if text == "" {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("reading its trust: %w", err)
	}
	signed := &sensorv1.SignedTrust{}
	if err := proto.Unmarshal(raw, signed); err != nil {
		return fmt.Errorf("reading its trust: %w", err)
	}
	t, _, err := trust.Verify(signed, id.operators, id.cluster, 0, time.Now())
	if err != nil {
		return fmt.Errorf("reading its trust: %w", err)
	}
	id.roots, id.epoch = t.GetRoots(), t.GetEpoch()
	if der := t.GetOperators(); len(der) > 0 {
		id.operators, err = x509.ParseCertificate(der)
	}
	return err
}

// following tells nodes which list the context has, and hears which one they have.
type following struct{ c *Client }

// RoundTrip implements http.RoundTripper.
func (f *following) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(trustHeader, strconv.FormatUint(f.c.id.epoch, 10))
	res, err := f.c.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if epoch, err := strconv.ParseUint(res.Header.Get(trustHeader), 10, 64); err == nil {
		f.c.mu.Lock()
		f.c.newest = max(f.c.newest, epoch)
		f.c.mu.Unlock()
	}
	return res, nil
}

// TrustBehind is whether the cluster has a newer list of trusted authorities than the context.
func (c *Client) TrustBehind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest > c.id.epoch
}

// Trust is which authorities are trusted, and who has heard of it. The list is verified;
// the counts are the node's word.
func (c *Client) Trust(ctx context.Context, seenWithin time.Duration) (*operatorv1.GetTrustResponse, *sensorv1.Trust, error) {
	res, err := call(ctx, c, api.GetTrust, &operatorv1.GetTrustRequest{SeenSince: time.Now().Add(-seenWithin).UnixNano()})
	if err != nil {
		return nil, nil, err
	}
	if res.GetTrust() == nil {
		if c.id.epoch > 0 {
			return nil, nil, fmt.Errorf("%w: node %s knows no list of trusted authorities, and this context has the one of epoch %d", ErrUntrusted, c.Node(), c.id.epoch)
		}
		// Nobody has signed one: what the context trusts is what there is.
		res.Roots, res.Issuer = c.id.roots, 0
		return res, nil, nil
	}
	t, _, err := trust.Verify(res.GetTrust(), c.id.operators, c.id.cluster, 0, time.Now())
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%w: node %s tells a list of trusted authorities that cannot be verified: %w; ask another node, and look at the coordinators", ErrUntrusted, c.Node(), err)
	case t.GetEpoch() < c.id.epoch:
		return nil, nil, fmt.Errorf("%w: node %s tells the list of epoch %d, and this context has the one of epoch %d", ErrUntrusted, c.Node(), t.GetEpoch(), c.id.epoch)
	}
	res.Roots, res.Issuer = t.GetRoots(), t.GetIssuer()
	return res, t, nil
}

// PrepareRoot has a node make an authority: a new one, or, by the name of its key, the same
// with a later end. Nothing trusts it before an admin signs a list with it.
func (c *Client) PrepareRoot(ctx context.Context, renew []byte) ([]byte, error) {
	res, err := call(ctx, c, api.PrepareRoot, &operatorv1.PrepareRootRequest{Renew: renew})
	if err != nil {
		return nil, err
	}
	if _, err := trust.Root(res.GetRoot(), c.id.cluster); err != nil {
		return nil, fmt.Errorf("%w: the authority that node %s made: %w", ErrUntrusted, c.Node(), err)
	}
	return res.GetRoot(), nil
}

// NewTrust is the list as this operator would sign it after before (nil for the first),
// to be looked at first. Errors wrap ErrInvalid.
func (c *Client) NewTrust(before *sensorv1.Trust, roots [][]byte, issuer int) (*sensorv1.Trust, error) {
	t := &sensorv1.Trust{ClusterId: c.id.cluster, Epoch: before.GetEpoch() + 1, SignedAt: time.Now().UnixNano(), Operator: c.operator,
		Roots: roots, Issuer: uint32(issuer), Operators: before.GetOperators()} //nolint:gosec // an index below four
	if _, err := trust.Encode(t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return t, nil
}

// PutTrust signs a list with the operator's key and commits it. The key never leaves this
// process. Force takes an authority away although hosts seen within that time would be cut off.
func (c *Client) PutTrust(ctx context.Context, t *sensorv1.Trust, reason string, seenWithin time.Duration, force bool) error {
	signed, err := trust.Sign(c.id.signer, c.id.chain(), t)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	_, err = call(ctx, c, api.PutTrust, &operatorv1.PutTrustRequest{Signed: signed, Reason: reason, Force: force,
		SeenSince: time.Now().Add(-seenWithin).UnixNano()})
	return err
}

// Follow puts a list of trusted authorities into the context, unless that has it already; it
// says whether it was news. It needs no cluster.
func (c *Context) Follow(signed *sensorv1.SignedTrust) (bool, error) {
	operators, err := parseCertificate("operators", c.Operators)
	if err != nil {
		return false, fmt.Errorf("context %q: %w", c.Name, err)
	}
	id := &identity{cluster: c.ClusterID, operators: operators}
	if err := id.follow(c.Trust); err != nil {
		return false, fmt.Errorf("context %q: %w", c.Name, err)
	}
	held, err := trust.Decode(signed.GetPayload())
	if err != nil {
		return false, err
	}
	if held.GetEpoch() == id.epoch {
		return false, nil
	}
	t, _, err := trust.Verify(signed, operators, c.ClusterID, id.epoch, time.Now())
	if err != nil {
		return false, err
	}
	raw, err := proto.Marshal(signed)
	if err != nil {
		return false, fmt.Errorf("encoding the list of trusted authorities: %w", err)
	}
	c.Trust = base64.StdEncoding.EncodeToString(raw)
	if der := t.GetOperators(); len(der) > 0 {
		renewed, err := x509.ParseCertificate(der)
		if err != nil {
			return false, fmt.Errorf("reading the operators' authority: %w", err)
		}
		// An authority that is the root itself is renewed with it.
		if own, err := parseCertificate("authority", c.Authority); err == nil && own.Equal(operators) {
			c.Authority = certificatePEM(renewed)
		}
		c.Operators = certificatePEM(renewed)
	}
	if first, err := x509.ParseCertificate(t.GetRoots()[0]); err == nil {
		c.CA = certificatePEM(first)
	}
	return true, nil
}

// RenewOperators is the list after before (nil for the first), with the operators'
// authority renewed: the same key, a later end. It takes the root's key.
func (c *Client) RenewOperators(of *Context, before *sensorv1.Trust, roots [][]byte, issuer int) (*sensorv1.Trust, error) {
	authority, err := of.authority()
	if err != nil {
		return nil, err
	}
	root, err := authority.Renew()
	if err != nil {
		return nil, err
	}
	t, err := c.NewTrust(before, roots, issuer)
	if err != nil {
		return nil, err
	}
	t.Operators = root.Raw
	if _, err := trust.Encode(t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return t, nil
}
