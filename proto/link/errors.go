package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/quic-go/quic-go"
)

// TLS alerts (RFC 8446, section 6.2), carried by QUIC as 0x100 + alert.
const (
	cryptoError              = 0x100
	alertBadCertificate      = 42
	alertCertificateExpired  = 45
	alertUnknownCA           = 48
	alertInternalError       = 80
	alertCertificateRequired = 116
	alertNoALPN              = 120
)

// explain turns what quic-go says into the package's errors; what it does not
// know it hands on unchanged.
func explain(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if app, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return &ClosedError{Code: uint64(app.ErrorCode), Reason: app.ErrorMessage, Remote: app.Remote}
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return fmt.Errorf("%w: the peer fell silent", ErrPeerLost)
	}
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return ErrUnreachable
	}
	if _, ok := errors.AsType[*quic.StatelessResetError](err); ok {
		return fmt.Errorf("%w: the peer restarted", ErrPeerLost)
	}
	if _, ok := errors.AsType[*quic.VersionNegotiationError](err); ok {
		return fmt.Errorf("%w: %w", ErrUnknownALPN, err)
	}
	if transport, ok := errors.AsType[*quic.TransportError](err); ok {
		return explainTransport(transport)
	}
	if stream, ok := errors.AsType[*quic.StreamError](err); ok {
		if stream.Remote {
			return fmt.Errorf("stream ended by peer: %w", net.ErrClosed)
		}
		return fmt.Errorf("using a closed stream: %w", net.ErrClosed)
	}
	return err
}

func explainTransport(err *quic.TransportError) error {
	if !err.Remote {
		return explainVerify(err)
	}
	switch err.ErrorCode {
	case quic.ConnectionRefused:
		return ErrBusy
	case cryptoError + alertCertificateExpired:
		return fmt.Errorf("%w: so says the peer; compare the clocks of both machines, and if they agree, enrol again", ErrExpired)
	case cryptoError + alertUnknownCA:
		return fmt.Errorf("%w: the peer does not know the CA that issued ours; this machine was enrolled in another cluster", ErrForeignCA)
	case cryptoError + alertCertificateRequired:
		return fmt.Errorf("%w: the peer asks for one and we presented none", ErrCertificateRefused)
	case cryptoError + alertBadCertificate:
		return fmt.Errorf("%w: the peer could not verify ours", ErrCertificateRefused)
	case cryptoError + alertNoALPN:
		return ErrUnknownALPN
	case cryptoError + alertInternalError:
		return fmt.Errorf("%w: all that it may have are taken, or its own certificate is not usable", ErrBusy)
	}
	return fmt.Errorf("%w: %s", ErrPeerLost, err.Error())
}

func explainVerify(err *quic.TransportError) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w: %w; compare the clocks of both machines", ErrPeerExpired, invalid)
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: the node's was issued by one that we do not trust: %w", ErrForeignCA, unknown)
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("%w: %w", ErrWrongPeer, name)
	}
	if errors.Is(err, ErrWrongPeer) || errors.Is(err, ErrForeignCA) {
		for _, cause := range err.Unwrap() { // our own sentence, without quic-go's dressing
			if errors.Is(cause, ErrWrongPeer) || errors.Is(cause, ErrForeignCA) {
				return cause
			}
		}
	}
	return err
}

// dialError adds where it went and what to look at.
func dialError(ctx context.Context, addr string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || (ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded)) {
		err = ErrUnreachable
	}
	err = explain(err)
	switch {
	case errors.Is(err, ErrUnreachable), errors.Is(err, ErrPeerLost):
		return fmt.Errorf("dialling %s: %w: is the node running there, and does every firewall let UDP through to it?", addr, ErrUnreachable)
	case errors.Is(err, ErrUnknownALPN):
		return fmt.Errorf("dialling %s: %w: something else than a Vedette node of this version answers there", addr, err)
	}
	return fmt.Errorf("dialling %s: %w", addr, err)
}

// cause is the name under which a failed handshake is counted.
func cause(err error) string {
	if errors.Is(err, errFull) {
		return "connection-limit"
	}
	if transport, ok := errors.AsType[*quic.TransportError](err); ok {
		side := "tls:"
		if transport.Remote {
			side = "tls-peer:"
		}
		switch transport.ErrorCode {
		case cryptoError + alertCertificateExpired:
			return side + "expired-certificate"
		case cryptoError + alertUnknownCA:
			return side + "foreign-ca"
		case cryptoError + alertCertificateRequired:
			return side + "no-certificate"
		case cryptoError + alertBadCertificate:
			return side + "bad-certificate"
		case cryptoError + alertNoALPN:
			return side + "unknown-alpn"
		case quic.ConnectionRefused:
			return "busy"
		}
		return side + "other"
	}
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return "handshake-timeout"
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return "handshake-timeout"
	}
	if app, ok := errors.AsType[*quic.ApplicationError](err); ok && app.Remote {
		return "peer-left"
	}
	return "other"
}

// ended reports a peer's orderly end, which readers of a stream expect as io.EOF.
func ended(err error) bool {
	closed, ok := errors.AsType[*ClosedError](err)
	return ok && closed.Remote && closed.Code == CodeOK
}

func readResult(n int, err error) (int, error) {
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if err = explain(err); ended(err) {
		return n, io.EOF
	}
	return n, err
}
