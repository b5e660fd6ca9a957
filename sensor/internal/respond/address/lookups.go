package address

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
)

const (
	// maxName is a name on the wire, RFC 1035 section 2.3.4.
	maxName, maxLabel = 255, 63
	dnsHeader         = 12
	// maxOffset is what a payload expression reaches on every kernel.
	maxOffset = 255
	// chunk is what one register holds.
	chunk = 16
)

// Name is a name as this package takes it: lower case, without the last dot.
func Name(text string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(text), ".")
	labels := strings.Split(name, ".")
	switch {
	case len(name) == 0 || len(name)+2 > maxName:
		return "", fmt.Errorf("%w: %q is no host name", ErrRefused, text)
	case len(labels) < 2:
		return "", fmt.Errorf("%w: %q is a whole top-level domain or a local name", ErrRefused, text)
	}
	for _, label := range labels {
		if len(label) == 0 || len(label) > maxLabel || strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return "", fmt.Errorf("%w: %q is no host name: letters, digits, - and _ (others as punycode)", ErrRefused, text)
		}
	}
	return name, nil
}

// wire is the name in a question.
func wire(name string) []byte {
	var raw []byte
	for label := range strings.SplitSeq(name, ".") {
		raw = append(append(raw, byte(len(label))), label...)
	}
	return append(raw, 0)
}

// questions are rules that meet a query whose first question is the name or one
// below it. A rule cannot search, so there is one for each place where the name
// may begin after the labels before it. Letters count in either case.
func questions(name string, before uint32) []rule {
	suffix := wire(name)
	var rules []rule
	for labels := 0; labels+len(suffix) <= maxName; labels++ {
		offset := before + dnsHeader + uint32(labels) //nolint:gosec // at most 255
		// One byte cannot be a label; what begins beyond an expression's reach is let go.
		if labels == 1 || offset > maxOffset {
			continue
		}
		if r := matches(offset, suffix); r != nil {
			rules = append(rules, join(r, verdict(expr.VerdictGoto, "hit")))
		}
	}
	return rules
}

// matches compares bytes after the transport header; nil: some are out of reach.
func matches(offset uint32, want []byte) rule {
	var all rule
	for len(want) > 0 {
		if offset > maxOffset {
			return nil
		}
		n := min(len(want), chunk)
		mask, value, zero := make([]byte, n), make([]byte, n), make([]byte, n)
		for i, b := range want[:n] {
			mask[i], value[i] = 0xff, b
			if b >= 'a' && b <= 'z' {
				mask[i], value[i] = 0xdf, b&0xdf
			}
		}
		all = append(all,
			&expr.Payload{DestRegister: 1, Base: inner, Offset: offset, Len: uint32(n)},              //nolint:gosec // at most 16
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(n), Mask: mask, Xor: zero}, //nolint:gosec // at most 16
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
		)
		offset, want = offset+uint32(n), want[n:] //nolint:gosec // at most 16
	}
	return all
}
