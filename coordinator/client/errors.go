package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"connectrpc.com/connect"
)

// What can go wrong, as a caller can act on it. Every error of a call wraps one of
// these, or is the coordinator's own message of another kind.
var (
	// ErrUnreachable: no node answered.
	ErrUnreachable = errors.New("no node is reachable")
	// ErrNoLeader: nodes answer, but they have no leader, so nothing can be decided.
	ErrNoLeader = errors.New("the cluster has no leader")
	// ErrDenied: the operator may not do this, or is nobody to this cluster.
	ErrDenied = errors.New("denied")
	// ErrNotFound: what was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request makes no sense to the coordinator.
	ErrInvalid = errors.New("invalid request")
	// ErrTimeout: the caller's time ran out.
	ErrTimeout = errors.New("timed out")
	// ErrStopped: an order was given and never went out (see StoppedError).
	ErrStopped = errors.New("it never went out, and nothing was done")
	// ErrKeyUsed: the idempotency key is an earlier request's, for something else.
	ErrKeyUsed = errors.New("this idempotency key was used before")
	// ErrUntrusted: what answers at the address is no node of the context's cluster.
	ErrUntrusted = errors.New("the server is not trusted")
)

// verdict is what one attempt at one node means for the next step.
type verdict struct {
	err error // wraps one of the sentinels where one fits
	// retry: another node, or this one later, may do better.
	retry bool
}

// judge turns the error of one attempt at node into a verdict. ctx is the
// caller's, not the attempt's: only its end is a time-out for the caller.
func judge(ctx context.Context, node string, err error) verdict {
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return verdict{err: context.Canceled}
	case ctx.Err() != nil:
		return verdict{err: fmt.Errorf("%w while %s was asked: %s", ErrTimeout, node, message(err))}
	}
	var untrusted *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &untrusted) || errors.As(err, &unknown) {
		// Retried elsewhere: one wrong address must not stop the others.
		return verdict{fmt.Errorf("%w: %s: %s: check the nodes in the context, or import the cluster's current context file",
			ErrUntrusted, node, message(err)), true}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && aboutCertificate(op.Err) {
		return verdict{fmt.Errorf("%w: %s refused this operator's certificate (%w): ask an admin for a new context file",
			ErrDenied, node, op.Err), false}
	}
	text := fmt.Sprintf("%s: %s", node, message(err))
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable:
		if connect.IsWireError(err) {
			return verdict{fmt.Errorf("%w: %s", ErrNoLeader, text), true}
		}
		return verdict{fmt.Errorf("%w: %s", ErrUnreachable, text), true}
	case connect.CodeDeadlineExceeded, connect.CodeCanceled:
		// The attempt's own deadline, or a connection lost under it.
		return verdict{fmt.Errorf("%w: %s", ErrUnreachable, text), true}
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return verdict{fmt.Errorf("%w: %s", ErrDenied, message(err)), false}
	case connect.CodeNotFound:
		return verdict{&answer{ErrNotFound, message(err)}, false}
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return verdict{fmt.Errorf("%w: %s", ErrInvalid, message(err)), false}
	case connect.CodeFailedPrecondition:
		if strings.HasSuffix(message(err), "(stale-rules)") {
			return verdict{&answer{ErrRulesStale, message(err)}, false}
		}
		if strings.HasSuffix(message(err), "(stale-intent)") {
			return verdict{&answer{ErrIntentStale, message(err)}, false}
		}
		return verdict{fmt.Errorf("%s: %s", node, message(err)), false}
	default:
		if !connect.IsWireError(err) {
			return verdict{fmt.Errorf("%w: %s", ErrUnreachable, text), true}
		}
		return verdict{fmt.Errorf("%s: %s", node, message(err)), false}
	}
}

// answer is the coordinator's own sentence, which needs no word of ours before it.
type answer struct {
	kind error
	text string
}

func (a *answer) Error() string { return a.text }
func (a *answer) Unwrap() error { return a.kind }

// aboutCertificate tells a TLS alert that rejects who we are from one that the
// connection broke by. The alerts' type is private to crypto/tls: its words are all there is.
func aboutCertificate(alert error) bool {
	text := alert.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "access denied")
}

// message is the error without Connect's code in front of it, which says to a
// person nothing that the sentinel does not.
func message(err error) string {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return ce.Message()
	}
	return err.Error()
}
