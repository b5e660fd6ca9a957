package decode

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Bounds of one message: an honest answer has a handful of records, and the
// message comes from anybody.
const (
	maxAnswers = 64
)

func decodeDNS(raw []byte) (event.Event, error) {
	if len(raw) < dnsSize {
		return nil, fmt.Errorf("%w: DNS of %d bytes", ErrMalformed, len(raw))
	}
	e := &event.DNS{Transport: "udp"}
	flags := head(raw, &e.Header)
	b := raw[headSize:]
	family, length := order.Uint16(b[0:]), int(order.Uint16(b[2:]))
	if length != len(raw)-dnsSize {
		return nil, fmt.Errorf("%w: DNS says %d bytes, has %d", ErrMalformed, length, len(raw)-dnsSize)
	}
	local, okLocal := address(family, b[8:24], order.Uint16(b[4:]))
	remote, okRemote := address(family, b[24:40], order.Uint16(b[6:]))
	if !okLocal || !okRemote {
		return nil, fmt.Errorf("%w: address family %d", ErrMalformed, family)
	}
	e.Local, e.Remote = local, remote
	e.Known = flags&dnsKnown != 0
	cut := flags&dnsCut != 0
	if err := parseMessage(e, raw[dnsSize:], cut); err != nil {
		return nil, err
	}
	return e, nil
}

// ErrNotDNS: a message to or from port 53 that is no DNS message. Programs talk
// whatever they like on that port; it is counted and no fault of the sensor.
var ErrNotDNS = errors.New("message on port 53 is not DNS")

// parseMessage fills e from a message. What was read before a fault is kept when
// the message was cut short, since the fault is then ours.
func parseMessage(e *event.DNS, message []byte, cut bool) error {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotDNS, err)
	}
	e.ID, e.Response, e.RCode = h.ID, h.Response, uint8(h.RCode)
	e.Truncated = h.Truncated || cut
	q, err := p.Question()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotDNS, err) // a message without a question tells nothing
	}
	e.Name, e.Type = presentName(q.Name.Data[:q.Name.Length]), uint16(q.Type)
	if !e.Response {
		return nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotDNS, err)
	}
	if err := parseAnswers(e, &p); err != nil && !cut {
		return fmt.Errorf("%w: %w", ErrNotDNS, err)
	}
	return nil
}

func parseAnswers(e *event.DNS, p *dnsmessage.Parser) error {
	ttl := uint32(0)
	for n := range maxAnswers {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 || h.TTL < ttl {
			ttl = h.TTL
			e.TTL = time.Duration(ttl) * time.Second
		}
		switch h.Type {
		case dnsmessage.TypeA:
			a, err := p.AResource()
			if err != nil {
				return err
			}
			e.Addrs = append(e.Addrs, netip.AddrFrom4(a.A))
		case dnsmessage.TypeAAAA:
			a, err := p.AAAAResource()
			if err != nil {
				return err
			}
			e.Addrs = append(e.Addrs, netip.AddrFrom16(a.AAAA).Unmap())
		case dnsmessage.TypeCNAME:
			c, err := p.CNAMEResource()
			if err != nil {
				return err
			}
			e.CNAMEs = append(e.CNAMEs, presentName(c.CNAME.Data[:c.CNAME.Length]))
		default:
			if err := p.SkipAnswer(); err != nil {
				return err
			}
		}
	}
	e.Truncated = true
	return nil
}

// presentName is the presentation form of a name as dnsmessage gives it: lower
// case, without the final dot, bytes that no host name has as \DDD (RFC 4343).
func presentName(wire []byte) string {
	if n := len(wire); n > 0 && wire[n-1] == '.' {
		wire = wire[:n-1]
	}
	out := make([]byte, 0, len(wire))
	for _, c := range wire {
		switch {
		case c >= 'A' && c <= 'Z':
			out = append(out, c+'a'-'A')
		case c > ' ' && c < 0x7f && c != '\\' && c != '"':
			out = append(out, c)
		default:
			out = append(out, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
		}
	}
	return string(out)
}
