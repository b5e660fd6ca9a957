package address

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Named counters: a rule that uses one stays the same bytes while it counts.
const (
	counterIngress = "dropped_ingress"
	counterEgress  = "dropped_egress"
	counterProbe   = "probe"
)

type (
	rule  = []expr.Any
	chain struct {
		name  string
		rules []rule
	}
	sets struct{ four, six *nftables.Set }
)

func addSets(conn *nftables.Conn, owned *nftables.Table, spec Spec) (sets, error) {
	made := sets{
		four: &nftables.Set{Table: owned, Name: "blocked4", KeyType: nftables.TypeIPAddr, Interval: true},
		six:  &nftables.Set{Table: owned, Name: "blocked6", KeyType: nftables.TypeIP6Addr, Interval: true},
	}
	for _, one := range []struct {
		set *nftables.Set
		is4 bool
	}{{made.four, true}, {made.six, false}} {
		if err := conn.AddSet(one.set, nil); err != nil {
			return made, fmt.Errorf("making the set of addresses: %w", err)
		}
		// One attribute holds 64 KiB; both ends of a range go together.
		const most = 512
		for elements := range slices.Chunk(intervals(spec.Prefixes, one.is4), most) {
			if err := conn.SetAddElements(one.set, elements); err != nil {
				return made, fmt.Errorf("filling the set of addresses: %w", err)
			}
		}
	}
	return made, nil
}

// intervals are half-open ranges; two that touch are one, since an interval set
// has one element for each key.
func intervals(prefixes []netip.Prefix, is4 bool) []nftables.SetElement {
	var elements []nftables.SetElement
	var end netip.Addr
	for _, p := range prefixes {
		if p.Addr().Is4() != is4 {
			continue
		}
		if end.IsValid() && end == p.Addr() {
			elements = elements[:len(elements)-1]
		} else {
			elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		end = after(p)
		elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return elements
}

// after is the first address beyond p; the highest ranges are never blocked, so
// that there is one.
func after(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last.Next()
}

func meta(key expr.MetaKey, data []byte) rule {
	return rule{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

func field(base expr.PayloadBase, offset uint32, data []byte) rule {
	return rule{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

func join(parts ...rule) rule {
	var all rule
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func verdict(kind expr.VerdictKind, to string) rule {
	return rule{&expr.Verdict{Kind: kind, Chain: to}}
}

func count(counter string) rule {
	return rule{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}}
}

const (
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader
	// inner is what follows the transport header, wherever TCP's options end
	// (NFT_PAYLOAD_INNER_HEADER, Linux 5.16, as is the egress hook).
	inner expr.PayloadBase = 3
)

// version is how a rule meets packets of one IP version: by the first half byte of
// the header. What a packet socket claims the ethertype to be does not count.
type version struct {
	nibble   byte
	from, to uint32 // offsets of the addresses in the header
	set      *nftables.Set
	size     uint32
}

func (v version) is() rule {
	return rule{
		&expr.Payload{DestRegister: 1, Base: network, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0xf0}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{v.nibble << 4}},
	}
}

func (v version) blocked(offset uint32) rule {
	return rule{
		&expr.Payload{DestRegister: 1, Base: network, Offset: offset, Len: v.size},
		&expr.Lookup{SourceRegister: 1, SetName: v.set.Name, SetID: v.set.ID},
	}
}

func (a *applied) chains(s sets) []chain {
	versions := []version{{4, 12, 16, s.four, 4}, {6, 8, 24, s.six, 16}}
	in, out := chain{name: "ingress"}, chain{name: "egress"}
	for _, node := range a.spec.Nodes {
		v := versions[0]
		if node.Addr().Is6() {
			v = versions[1]
		}
		port := binaryutil.BigEndian.PutUint16(node.Port())
		udp := meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_UDP})
		in.rules = append(in.rules, join(v.is(), udp, field(network, v.from, node.Addr().AsSlice()), field(transport, 0, port), verdict(expr.VerdictReturn, "")))
		out.rules = append(out.rules, join(v.is(), udp, field(network, v.to, node.Addr().AsSlice()), field(transport, 2, port), verdict(expr.VerdictReturn, "")))
	}
	for _, v := range versions {
		in.rules = append(in.rules, join(v.is(), v.blocked(v.from), count(counterIngress), verdict(expr.VerdictDrop, "")))
		out.rules = append(out.rules, join(v.is(), v.blocked(v.to), verdict(expr.VerdictGoto, "hit")))
	}
	hit := chain{name: "hit", rules: []rule{
		join(meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_UDP}), field(transport, 8, a.nonce[:]), count(counterProbe), verdict(expr.VerdictDrop, "")),
		join(count(counterEgress), verdict(expr.VerdictDrop, "")),
	}}
	chains := []chain{hit}
	for i, name := range a.spec.Names {
		for _, one := range []struct {
			suffix   string
			protocol byte
			header   uint32 // bytes before the DNS header
		}{{"udp", unix.IPPROTO_UDP, 0}, {"tcp", unix.IPPROTO_TCP, 2}} {
			c := chain{name: fmt.Sprintf("name_%d_%s", i, one.suffix), rules: questions(name, one.header)}
			chains = append(chains, c)
			out.rules = append(out.rules, join(
				meta(expr.MetaKeyL4PROTO, []byte{one.protocol}),
				field(transport, 2, binary.BigEndian.AppendUint16(nil, domainPort)),
				verdict(expr.VerdictJump, c.name),
			))
		}
	}
	return append(chains, in, out)
}

const domainPort = 53
