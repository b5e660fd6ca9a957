package correlate

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// indicator is what storylines of several hosts may have in common.
type indicator struct {
	kind  string // hash, domain, peer, key, account
	value string
	usual string // the object of behaviours by which it is known how usual it is
}

// maxShared bounds the indicators of one storyline; later ones are not noted.
const maxShared = 64

// addShared takes in what a finding shows that other hosts may show too.
func (w *window) addShared(s *story, f *sensorv1.Finding) {
	for _, i := range indicatorsOf(f) {
		at, known := s.shared[i]
		if known {
			s.shared[i] = min(at, f.GetTime())
			continue
		}
		if len(s.shared) >= maxShared {
			w.dropped++
			return
		}
		s.shared[i] = f.GetTime()
		if w.sharing[i] == nil {
			w.sharing[i] = make(map[storyKey]bool)
		}
		w.sharing[i][s.key] = true
		w.changed[s.key] = true
	}
}

func indicatorsOf(f *sensorv1.Finding) (all []indicator) {
	add := func(kind, value, usual string) {
		if value != "" {
			all = append(all, indicator{kind, printable(shorten(value, 256)), usual})
		}
	}
	p := f.GetProcess()
	if len(p.GetSha256()) == 32 {
		add("hash", hex.EncodeToString(p.GetSha256()), string(p.GetImage()))
	}
	for _, name := range f.GetLookups() {
		if domain := registered(name); domain != "" {
			add("domain", domain, domain)
		}
	}
	for _, flow := range f.GetFlows() {
		remote, ok := netip.AddrFromSlice(flow.GetRemote())
		if remote = remote.Unmap(); !ok || flow.GetInbound() || !remote.IsGlobalUnicast() || remote.IsPrivate() {
			continue // who is inside is a host, and joined by its flows
		}
		add("peer", remote.String(), "out "+protocolName(flow.GetProtocol())+" "+routed(remote)+" "+service(flow.GetRemotePort()))
	}
	if l := f.GetLogin(); l.GetKey() != "" {
		add("key", l.GetKey(), "")
	}
	if user, source := login(f); source.IsValid() && user != "" {
		add("account", user+" from "+source.String(), "in tcp "+source.String()+" 22")
	}
	return all
}

// login is who logged in and from where, as far as the finding says.
func login(f *sensorv1.Finding) (user string, source netip.Addr) {
	user, raw := f.GetLogin().GetUser(), f.GetLogin().GetSource()
	source, ok := netip.AddrFromSlice(raw)
	if source = source.Unmap(); !ok || source.IsLoopback() || source.IsUnspecified() {
		return user, netip.Addr{}
	}
	return user, source
}

// registered is the domain that somebody registered, as behaviours have it; "" for what
// names a machine of one's own.
func registered(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !strings.Contains(name, ".") || strings.HasSuffix(name, ".arpa") {
		return ""
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil {
		return ""
	}
	return domain
}

// routed is the prefix by which behaviours know an address of the internet.
func routed(a netip.Addr) string {
	bits := 24
	if a.Is6() {
		bits = 48
	}
	prefix, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return a.String()
	}
	return prefix.String()
}

// kindOf is the kind of behaviour by which an indicator is known.
func (i indicator) kindOf() sensorv1.BehaviourKind {
	switch i.kind {
	case "hash":
		return sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC
	case "domain":
		return sensorv1.BehaviourKind_BEHAVIOUR_KIND_LOOKUP
	}
	return sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW
}

func (i indicator) text() string {
	switch i.kind {
	case "hash":
		return "the same program " + i.usual + " (sha256 " + i.value[:12] + "…)"
	case "domain":
		return "both looked up " + i.value
	case "peer":
		return "both spoke with " + i.value
	case "key":
		return "the same key " + i.value
	}
	return "the same login: " + i.value
}

// Ports from here on are given out by chance, and no service.
const ephemeral = 32768

func service(port uint32) string {
	if port >= ephemeral {
		return "ephemeral"
	}
	return line("%d", port)
}

func protocolName(number uint32) string {
	switch number {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return line("proto%d", number)
}
