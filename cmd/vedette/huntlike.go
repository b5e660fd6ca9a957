package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of an expression that is made from a finding.
const (
	maxLikePeers   = 32
	maxLikeArgs    = 24
	maxLikePattern = 600 // bytes of the arguments' shape; the language takes 1 KiB
)

// huntLike is the expression that looks for what a finding is about: the same program with
// arguments of the same shape, and the same program talking to the same addresses or
// looking up the same names. It leaves out what differs from host to host by chance.
func huntLike(f *sensorv1.Finding) (string, error) {
	p := f.GetProcess()
	program := likeProgram(p)
	var ways []string
	if program != "" {
		way := `type in ("exec", "process") and ` + program
		if shape := likeArguments(p); shape != "" {
			way += " and command_line matches " + hunt.Quote(shape)
		}
		ways = append(ways, way)
	}
	addresses, names := likePeers(f)
	if len(addresses) > 0 {
		ways = append(ways, "remote.address in ("+quoteAll(addresses)+")")
	}
	if len(names) > 0 {
		ways = append(ways, "name in ("+quoteAll(names)+")", "remote.name in ("+quoteAll(names)+")")
	}
	switch len(ways) {
	case 0:
		return "", errors.New("it tells no program, no address and no name that could be hunted for")
	case 1:
		if program != "" {
			return "process where " + strings.TrimPrefix(ways[0], `type in ("exec", "process") and `), nil
		}
	}
	text := "any where (" + strings.Join(ways, ") or (") + ")"
	if _, err := hunt.Parse(text); err != nil {
		return "", fmt.Errorf("the expression made of it does not hold: %w", err)
	}
	return text, nil
}

// likeProgram is the same file by its path or by its content, or the same script.
func likeProgram(p *sensorv1.Process) string {
	image, hash := string(p.GetImage()), hex.EncodeToString(p.GetSha256())
	switch {
	case len(p.GetScript()) > 0:
		return "script == " + hunt.Quote(string(p.GetScript()))
	case image != "" && hash != "":
		return "(image == " + hunt.Quote(image) + " or sha256 == " + hunt.Quote(hash) + ")"
	case image != "":
		return "image == " + hunt.Quote(image)
	}
	return ""
}

// The parts of arguments that differ from run to run.
var (
	likeAddress = regexp.MustCompile(`^(?:[0-9]{1,3}\.){3}[0-9]{1,3}`)
	likeNumber  = regexp.MustCompile(`^[0-9]+`)
	likeRandom  = regexp.MustCompile(`^[0-9a-fA-F]{12,}|^[A-Za-z0-9+]{24,}={0,2}`)
	likePlain   = regexp.MustCompile(`^[^0-9A-Za-z+/]+|^[A-Za-z]+|^.`)
)

// likeArguments is a pattern of all arguments, with numbers, addresses and what looks random
// left open; "" when there are none beyond the name, or not all are known.
func likeArguments(p *sensorv1.Process) string {
	argv := p.GetArgv()
	if len(argv) < 2 || len(argv) > maxLikeArgs || p.GetArgvTruncated() {
		return ""
	}
	var b strings.Builder
	b.WriteByte('^')
	for i, raw := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		arg := string(raw)
		if strings.ToValidUTF8(arg, "") != arg {
			b.WriteString(`.*`)
			continue
		}
		for arg != "" {
			var open, taken string
			if taken = likeRandom.FindString(arg); taken != "" {
				open = `[^ ]+`
			} else if taken = likeAddress.FindString(arg); taken != "" {
				open = `[0-9.]+`
			} else if taken = likeNumber.FindString(arg); taken != "" {
				open = `[0-9]+`
			} else {
				taken = first(likePlain.FindString(arg), arg[:1])
				open = regexp.QuoteMeta(taken)
			}
			b.WriteString(open)
			arg = arg[len(taken):]
		}
		if b.Len() > maxLikePattern {
			return "" // the program alone
		}
	}
	b.WriteByte('$')
	return b.String()
}

// likePeers are whom it talked to and what it looked up, without what every host has.
func likePeers(f *sensorv1.Finding) (addresses, names []string) {
	flows := slices.Clone(f.GetFlows())
	if f.GetOrigin() != nil {
		flows = append(flows, f.GetOrigin())
	}
	for _, flow := range flows {
		if addr, ok := netip.AddrFromSlice(flow.GetRemote()); ok {
			if addr = addr.Unmap(); !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast() {
				addresses = append(addresses, addr.String())
			}
		}
		if flow.GetName() != "" {
			names = append(names, flow.GetName())
		}
	}
	names = append(names, f.GetLookups()...)
	addresses, names = unique(addresses), unique(names)
	return addresses[:min(len(addresses), maxLikePeers)], names[:min(len(names), maxLikePeers)]
}

func quoteAll(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = hunt.Quote(s)
	}
	return strings.Join(out, ", ")
}
