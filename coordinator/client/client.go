package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/operatorv1/operatorv1connect"
)

// Bounds of one attempt. A node that accepts but never answers (frozen, half dead)
// must cost less than a person's patience, because others may be well.
const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 2 * time.Second
	attemptTimeout   = 10 * time.Second
	// pingAfter and pingTimeout end a stream whose node has gone without a word.
	pingAfter   = 5 * time.Second
	pingTimeout = 5 * time.Second
	// maxResponse bounds what a node may make us hold: a page of 500 findings is far below.
	maxResponse = 64 << 20
	// Between rounds over all nodes.
	retryFirst = 100 * time.Millisecond
	retryMost  = time.Second
)

// Options adjust a Client.
type Options struct {
	// RetryFor is how long a cluster without a leader is asked again before the
	// call gives up. Default 4 s: a node that waits for an election does so itself.
	RetryFor time.Duration
	// RetryUnreachable is the same for a cluster of which no node can be reached
	// at all. Default 2 s: long enough for a restart of a single node.
	RetryUnreachable time.Duration
	// PageTime bounds the wait for each page of a list, as a list may be long. Default: only
	// the caller's context does.
	PageTime time.Duration
	// Logger hears at debug level of every node that was given up. Default: nobody.
	Logger *slog.Logger
	// UserAgent names the program to the coordinator.
	UserAgent string
}

// Client talks to a cluster as one operator. It is safe for concurrent use.
type Client struct {
	id        *identity
	operator  string
	nodes     []node
	transport *http.Transport
	opt       Options

	mu     sync.Mutex
	prefer int    // index of the node that answered last
	newest uint64 // epoch of the list of trusted authorities that a node told of
}

type node struct {
	address string
	api     operatorv1connect.OperatorServiceClient
}

// New makes a client of the context's cluster. It opens no connection yet.
func New(c *Context, opt Options) (*Client, error) {
	if err := c.Validate(time.Now()); err != nil {
		return nil, err
	}
	id, err := newIdentity(c, time.Now())
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", c.Name, err)
	}
	if opt.RetryFor == 0 {
		opt.RetryFor = 4 * time.Second
	}
	if opt.RetryUnreachable == 0 {
		opt.RetryUnreachable = 2 * time.Second
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	transport := &http.Transport{
		Proxy:               nil, // nodes are addressed directly: a proxy could not be verified as a node
		DialContext:         dial,
		TLSClientConfig:     id.tls(),
		TLSHandshakeTimeout: handshakeTimeout,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     time.Minute,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	cl := &Client{id: id, operator: c.Subject(), transport: transport, opt: opt}
	httpClient := &http.Client{Transport: &following{cl}}
	for _, address := range c.Nodes {
		address = strings.TrimPrefix(address, "https://")
		api := operatorv1connect.NewOperatorServiceClient(httpClient, "https://"+address,
			connect.WithReadMaxBytes(maxResponse), connect.WithSendGzip())
		cl.nodes = append(cl.nodes, node{address, api})
	}
	return cl, nil
}

// Close drops idle connections. Calls under way end on their own contexts.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Operator is the name in the context's certificate.
func (c *Client) Operator() string { return c.operator }

// Certificate is how long the context's certificate is good.
func (c *Client) Certificate() (from, until time.Time) {
	return c.id.cert.Leaf.NotBefore, c.id.cert.Leaf.NotAfter
}

// Node is the address of the node that answered last.
func (c *Client) Node() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[c.prefer].address
}

func (c *Client) preferred() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.prefer
}

func (c *Client) setPreferred(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prefer = i
}

// do runs attempt at one node after another until one answers, an answer forbids
// another try, or trying has lasted too long.
func (c *Client) do(ctx context.Context, attempt func(context.Context, operatorv1connect.OperatorServiceClient) error) error {
	started := time.Now()
	wait := retryFirst
	var last error // what the round before ended with
	for {
		first := c.preferred()
		var failures []error
		for n := range c.nodes {
			i := (first + n) % len(c.nodes)
			err := c.once(ctx, i, attempt)
			if err == nil {
				c.setPreferred(i)
				return nil
			}
			v := judge(ctx, c.nodes[i].address, err)
			if errors.Is(v.err, ErrTimeout) && last != nil {
				return last // why nothing came in time says more than that the time is over
			}
			if !v.retry {
				return v.err
			}
			c.opt.Logger.Debug("node gave no answer", "node", c.nodes[i].address, "error", err)
			failures = append(failures, v.err)
		}
		err := worst(failures)
		last = err
		limit := c.opt.RetryUnreachable
		if errors.Is(err, ErrNoLeader) {
			limit = c.opt.RetryFor
		}
		if errors.Is(err, ErrUntrusted) || time.Since(started)+wait > limit {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return err
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

func (c *Client) once(ctx context.Context, i int, attempt func(context.Context, operatorv1connect.OperatorServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return attempt(ctx, c.nodes[i].api)
}

// worst picks the failure of a round that says most: a node that answered without
// a leader tells more than one that is away; all of the rest is said together.
func worst(failures []error) error {
	for _, kind := range []error{ErrNoLeader, ErrUnreachable, ErrUntrusted} {
		for _, err := range failures {
			if errors.Is(err, kind) {
				if errors.Is(kind, ErrUnreachable) && len(failures) > 1 {
					return unreachable(failures)
				}
				return err
			}
		}
	}
	return errors.Join(failures...)
}

func unreachable(failures []error) error {
	parts := make([]string, len(failures))
	for i, err := range failures {
		parts[i] = strings.TrimPrefix(err.Error(), ErrUnreachable.Error()+": ")
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, strings.Join(parts, "; "))
}

// call is do for a method with one request and one answer.
func call[Req, Res any](ctx context.Context, c *Client,
	method func(operatorv1connect.OperatorServiceClient, context.Context, *Req) (*Res, error), req *Req,
) (*Res, error) {
	var out *Res
	err := c.do(ctx, func(ctx context.Context, api operatorv1connect.OperatorServiceClient) error {
		res, err := method(api, ctx, req)
		out = res
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
