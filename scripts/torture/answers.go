package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// callTimeout is how long a caller waits: past it the operation has no answer.
	callTimeout = 3 * time.Second
	enrolMost   = 4 * time.Second
)

// shared is what the callers of a round do things to.
type shared struct {
	rig     *rig
	h       *history
	hosts   []string
	epochs  []atomic.Uint64 // the newest epoch that somebody saw taken
	waiting string          // the host whose orders wait for a second operator
	names   atomic.Uint64   // every value is another
	faults  atomic.Int64    // that have come and gone
	others  sync.Map        // answers that say nothing of the object: text → *atomic.Int64

	mu    sync.Mutex // guards what follows
	open  string     // the operation that waits now
	token *link.Token
}

// caller is one operator at one node.
type caller struct {
	*shared
	n    int
	node int
	api  *client.Client
	dice *rand.Rand
}

func (s *shared) name(what string) string { return fmt.Sprintf("%s-%d", what, s.names.Add(1)) }

// run calls until the round has so many operations and faults, or ctx ends.
func (c *caller) run(ctx context.Context, operations, faults int) {
	for ctx.Err() == nil && (c.h.size() < operations || int(c.faults.Load()) < faults) {
		switch draw := c.dice.IntN(100); {
		case draw < 32:
			c.read(ctx, c.dice.IntN(len(c.hosts)))
		case draw < 60:
			c.order(ctx, c.dice.IntN(len(c.hosts)))
		case draw < 75:
			c.intent(ctx, false)
		case draw < 85:
			c.intent(ctx, true)
		case draw < 98:
			c.decide(ctx)
		default:
			c.enrol(ctx)
		}
	}
}

// came turns an error into what the operation came to; rule is the answer that says
// that the object's own rule was broken. ok is false when the answer says nothing.
func (c *caller) came(err error, rule string) (string, bool) {
	switch {
	case err == nil:
		return yes, true
	case strings.Contains(err.Error(), rule):
		return no, true
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrNoLeader), errors.Is(err, client.ErrTimeout),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unknown, true
	}
	text := err.Error()
	if i := strings.LastIndex(text, "("); i >= 0 {
		text = text[i:]
	}
	n, _ := c.others.LoadOrStore(text, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	return "", false
}

// write notes what a changing operation came to.
func (c *caller) write(called int64, in input, err error, rule string) {
	if came, ok := c.came(err, rule); ok {
		c.h.add(c.n, called, in, output{came: came})
	}
	if err != nil {
		rest(context.Background(), 5*time.Millisecond)
	}
}

// seen notes what a read saw; one that was not answered says nothing.
func (c *caller) seen(called int64, object, value string, err error) {
	if err == nil {
		c.h.add(c.n, called, input{object: object, do: doRead}, output{came: yes, value: value})
		return
	}
	_, _ = c.came(err, "never")
}

func (c *caller) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
}

func (c *caller) seenOf(epoch uint64, approvals uint32) *operatorv1.PreviewOrderResponse {
	return &operatorv1.PreviewOrderResponse{ClusterId: c.rig.admin.ClusterID, Epoch: epoch, Approvals: approvals}
}

func (c *caller) order(ctx context.Context, host int) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	in := input{object: "host " + c.hosts[host], do: doOrder, value: c.name("order"), epoch: c.epochs[host].Load() + 1}
	called := c.h.now()
	_, err := c.api.Give(ctx, client.Order{Action: sensorv1.Action_ACTION_RELEASE, Hosts: []string{c.hosts[host]}, Reason: in.value, Seen: c.seenOf(in.epoch, 1)})
	c.write(called, in, err, "(stale-order)")
	if err == nil || strings.Contains(err.Error(), "(stale-order)") {
		for old := c.epochs[host].Load(); old < in.epoch && !c.epochs[host].CompareAndSwap(old, in.epoch); {
			old = c.epochs[host].Load()
		}
	}
}

func (c *caller) read(ctx context.Context, host int) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	called := c.h.now()
	value, err := newest(ctx, c.api, c.hosts[host])
	c.seen(called, "host "+c.hosts[host], value, err)
}

// newest is the reason of the newest order for a host.
func newest(ctx context.Context, api *client.Client, host string) (string, error) {
	for row, err := range api.Isolations(ctx, &operatorv1.ListIsolationsRequest{Host: host, PageSize: 1}) {
		return row.GetReason(), err
	}
	return "", nil
}

func (c *caller) intent(ctx context.Context, readOnly bool) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	called := c.h.now()
	current, err := inForce(ctx, c.api)
	value := current.Effective().GetReason()
	c.seen(called, doApply, value, err)
	if err != nil || readOnly {
		return
	}
	in := input{object: doApply, do: doApply, prev: value, value: c.name("intent")}
	called = c.h.now()
	_, err = c.api.ApplyIntent(ctx, &sensorv1.Intent{Reason: in.value}, current, "")
	if !errors.Is(err, client.ErrInvalid) { // it was not even sent: a clock
		c.write(called, in, err, "(stale-intent)")
	}
}

// inForce is the intent in force. Whether it follows the one before is not asked here:
// that is another read.
func inForce(ctx context.Context, api *client.Client) (*client.Intent, error) {
	current, _, err := api.IntentInForce(ctx, client.Mark{})
	if errors.Is(err, client.ErrIntentChain) {
		return current, nil
	}
	return current, err
}

// decide makes an operation that waits for a second operator, or approves, stops or
// looks at the one that there is.
func (c *caller) decide(ctx context.Context) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	c.mu.Lock()
	operation := c.open
	c.mu.Unlock()
	draw := c.dice.IntN(100)
	if c.n%operators == 0 { // the first operator makes them, the others decide
		if draw < 30 || operation == "" {
			made, err := c.api.Give(ctx, client.Order{Action: sensorv1.Action_ACTION_RELEASE, Hosts: []string{c.waiting}, Reason: "waits",
				Seen: c.seenOf(c.names.Add(1), 2)})
			if err == nil {
				c.mu.Lock()
				c.open = made.GetOperation()
				c.mu.Unlock()
			} else {
				_, _ = c.came(err, "never")
			}
			return
		}
		draw = 0
	}
	if operation == "" {
		return
	}
	object := "operation " + operation
	called := c.h.now()
	res, err := c.api.Operation(ctx, operation)
	state := res.GetOrder().GetState()
	c.seen(called, object, strings.TrimPrefix(state, "waiting"), err)
	if err != nil || draw < 40 {
		return
	}
	called = c.h.now()
	if draw < 75 {
		_, err = c.api.Approve(ctx, res.GetOrder(), nil)
		c.write(called, input{object: object, do: doApprove, value: "ordered"}, err, "(not-waiting)")
		return
	}
	_, err = c.api.Veto(ctx, operation, "no")
	c.write(called, input{object: object, do: doVeto, value: "vetoed"}, err, "(not-waiting)")
}

// enrol spends the token that everybody tries to spend, or makes the next one.
func (c *caller) enrol(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enrolMost)
	defer cancel()
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token == nil || c.dice.IntN(4) == 0 {
		made, err := c.api.CreateToken(ctx, &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 3000})
		if err != nil {
			_, _ = c.came(err, "never")
			return
		}
		if next, err := link.ParseToken(made.GetToken()); err == nil {
			c.mu.Lock()
			c.token = &next
			c.mu.Unlock()
		}
		return
	}
	in := input{object: fmt.Sprintf("token %x", token.ID), do: doEnrol, value: "spent"}
	called := c.h.now()
	_, err := enrol(ctx, address(c.node)+":"+sensorPort, *token)
	var nay *refused
	switch {
	case err == nil:
		c.h.add(c.n, called, in, output{came: yes})
	case errors.As(err, &nay) && nay.code == "token-used":
		c.h.add(c.n, called, in, output{came: no})
	case errors.As(err, &nay) && nay.code == "rate-limited":
		// It was not looked at.
	default:
		c.h.add(c.n, called, in, output{came: unknown})
	}
}
