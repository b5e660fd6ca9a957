package baseline

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// maxName bounds a subject or object; a longer one keeps its head and a hash of the rest.
	maxName = 384
	// ephemeral is the first port of Linux's default range for unnamed ports: who
	// listens there got the number by chance.
	ephemeral = 32768
	// maxPublicPeers is the number of prefixes after which a service open to the
	// internet is said to serve "internet".
	maxPublicPeers = 64
)

// KeyOf is a behaviour's name in every store, the same on every host.
func KeyOf(kind event.BehaviourKind, subject, object string) event.BehaviourKey {
	return pack.KeyOf(byte(kind), subject, object)
}

// behaviourOf normalises an observation.
func (b *Baseline) behaviourOf(o *event.Observation) (kind event.BehaviourKind, subject, object string, ok bool) {
	switch ev := o.Event.(type) {
	case *event.Exec:
		parent := o.Process.Parent
		if parent == nil {
			parent = o.Before
		}
		if parent != nil {
			subject = imageName(parent)
		}
		return event.BehaviourExec, subject, imageName(o.Process), true
	case *event.FlowOpen:
		if p := o.Process.Parent; ev.Accepted && p != nil && p.Image == o.Process.Image {
			return 0, "", "", false // its listener's, counted already
		}
		return event.BehaviourFlow, imageName(o.Process), flowObject(ev, o.Flow), true
	case *event.DNS:
		if ev.Response || ev.Name == "" {
			return 0, "", "", false
		}
		return event.BehaviourLookup, imageName(o.Process), bounded(domainOf(ev.Name)), true
	case *event.File:
		return event.BehaviourFile, fileSubject(o), fileObject(ev), true
	case *event.Privilege:
		return event.BehaviourPrivilege, imageName(o.Process), privilegeObject(ev, o.Target), true
	}
	return 0, "", "", false
}

// privilegeObject is what was done to what. Paths, names and numbers that differ from
// one time to the next are left out.
func privilegeObject(ev *event.Privilege, target *event.Process) string {
	words := []string{string(ev.Operation)}
	add := func(word string) {
		if word != "" {
			words = append(words, word)
		}
	}
	add(ev.CommandName())
	add(strings.Join(ev.Namespaces(), ","))
	switch ev.Operation {
	case event.OpMount, event.OpModule, event.OpURing:
		add(ev.Call)
	}
	if ev.Gained {
		add("gained")
	}
	if ev.Operation == event.OpSetUID && ev.UID == 0 {
		add("root")
	}
	if target != nil {
		add(normalisePath(target.Image))
	}
	if ev.ErrorName() != "" {
		add("refused")
	}
	return bounded(strings.Join(words, " "))
}

// imageName is an image, and for interpreters the script that it runs.
func imageName(p *event.Process) string {
	name := normalisePath(p.Image)
	if p.Script != "" {
		script := p.Script
		if !strings.HasPrefix(script, "/") && p.Cwd != "" {
			script = path.Join(p.Cwd, script)
		}
		name += " " + normalisePath(script)
	}
	return bounded(name)
}

func bounded(s string) string {
	if len(s) <= maxName {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return s[:maxName-9] + "#" + strconv.FormatUint(uint64(binary.BigEndian.Uint32(sum[:4])), 16)
}

// normalisePath replaces what programs choose at random in paths: runs of four
// digits or more, and words of eight hex digits or more with a digit in them;
// in directories for temporary files also the rest of a word after "tmp." or
// "build". So a build's or a package script's thousand paths are one behaviour.
func normalisePath(p string) string {
	if !mayBeRandom(p) {
		return p
	}
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if rest, ok := strings.CutPrefix(part, "tmp."); ok && len(rest) >= 6 {
			parts[i] = "tmp.*"
			continue
		}
		parts[i] = starRandom(part)
	}
	return strings.Join(parts, "/")
}

// mayBeRandom is the cheap test that nearly every path fails: what passes has something
// that starRandom stars, or may have a "tmp.".
func mayBeRandom(p string) bool {
	hex, digits, row := 0, 0, 0 // of the run of hex digits, and of decimal ones in a row at its end
	for i := range len(p) {
		c := p[i]
		if !isHex(c) {
			hex, digits, row = 0, 0, 0
			continue
		}
		hex++
		if row++; c > '9' {
			row = 0
		} else {
			digits++
		}
		if row >= 4 || hex >= 8 && digits > 0 {
			return true
		}
	}
	return strings.Contains(p, "tmp.")
}

func starRandom(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		j, digits, hex := i, 0, 0
		for j < len(s) && isHex(s[j]) {
			if s[j] <= '9' {
				digits++
			}
			hex++
			j++
		}
		if (hex >= 8 && digits > 0) || (digits == hex && digits >= 4) {
			out.WriteByte('*')
			i = j
			continue
		}
		if hex > 0 {
			// A run of digits may begin within letters that are hex by chance.
			k := i
			for k < j {
				m := k
				for m < j && s[m] <= '9' {
					m++
				}
				if m-k >= 4 {
					out.WriteByte('*')
				} else {
					out.WriteString(s[k:m])
				}
				for m < j && s[m] > '9' {
					out.WriteByte(s[m])
					m++
				}
				k = m
			}
			i = j
			continue
		}
		out.WriteByte(s[i])
		i++
	}
	return out.String()
}

func isHex(c byte) bool { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') }

// flowObject is direction, protocol, peer and service port.
func flowObject(ev *event.FlowOpen, flow *event.Flow) string {
	direction, port := "out ", ev.Remote.Port()
	if ev.Dir == event.Inbound {
		direction, port = "in ", ev.Local.Port()
	}
	proto := "proto" + strconv.Itoa(int(ev.Proto))
	switch ev.Proto {
	case 6:
		proto = "tcp"
	case 17:
		proto = "udp"
	}
	service := "ephemeral"
	if port < ephemeral {
		service = strconv.Itoa(int(port))
	}
	name := ""
	if flow != nil {
		name = flow.Name
	}
	return bounded(direction + proto + " " + peerOf(ev.Remote.Addr().Unmap(), name, ev.Dir) + " " + service)
}

// peerOf generalises an address as far as it stays one party: the machine in a
// private network (by its full name when it has one, which outlives a DHCP
// lease), the registered domain or the routed prefix on the internet.
func peerOf(addr netip.Addr, name string, dir event.Direction) string {
	switch {
	case addr.IsLoopback():
		return "loopback"
	case !addr.IsValid() || addr.IsUnspecified():
		return "unspecified"
	case addr.IsMulticast():
		return "multicast"
	}
	private := addr.IsPrivate() || addr.IsLinkLocalUnicast()
	if name != "" && dir == event.Outbound {
		if private {
			return name
		}
		return domainOf(name)
	}
	if private {
		return addr.WithZone("").String()
	}
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
}

// isPublicInbound recognises "in tcp PREFIX/24 443".
func isPublicInbound(object string) bool {
	rest, ok := strings.CutPrefix(object, "in ")
	return ok && strings.ContainsRune(rest, '/')
}

// collapse says "internet" for the peers of a service that the internet uses.
func (b *Baseline) collapse(subjectName, object string) string {
	if !isPublicInbound(object) {
		return object
	}
	s := b.subjects[subjectKey{event.BehaviourFlow, subjectName}]
	if s == nil || s.public < maxPublicPeers {
		return object
	}
	fields := strings.Fields(object)
	return fields[0] + " " + fields[1] + " internet " + fields[len(fields)-1]
}

// domainOf is the domain that somebody registered, by the public suffix list.
func domainOf(name string) string {
	name = strings.TrimSuffix(name, ".")
	for _, reverse := range []string{"in-addr.arpa", "ip6.arpa"} {
		if strings.HasSuffix(name, reverse) {
			return reverse
		}
	}
	if !strings.Contains(name, ".") {
		return name
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil {
		return name
	}
	return domain
}
