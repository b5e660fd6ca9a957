package enrich

import (
	"container/list"
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// nameGrace is how long a name outlives its TTL: programs connect to addresses
	// that they resolved a while ago.
	nameGrace = uint64(120e9)
	// maxTTL bounds a TTL, which the other side chooses.
	maxTTL = uint64(24 * 3600e9)
	// namesEach bounds the names of one address: a content network serves thousands.
	namesEach = 4
	// addrsEach bounds what one answer may teach.
	addrsEach = 32
)

type name struct {
	text   string
	asker  event.ProcessKey
	expiry uint64 // boot time
}

type address struct {
	addr  netip.Addr
	names []name // newest last
}

// names remembers what addresses were resolved from on this host: the name that
// was asked for, whatever CNAMEs the answer went through.
type names struct {
	max   int
	by    map[netip.Addr]*list.Element
	order *list.List // least recently learnt first
}

func newNames(limit int) names {
	return names{max: limit, by: map[netip.Addr]*list.Element{}, order: list.New()}
}

func (c *names) len() int { return len(c.by) }

func (c *names) learn(ev *event.DNS, now uint64) {
	if ev.RCode != 0 || ev.Name == "" || len(ev.Addrs) == 0 {
		return
	}
	ttl := uint64(max(ev.TTL, 0)) //nolint:gosec // not negative
	fresh := name{shared(ev.Name), ev.Process, now + min(ttl, maxTTL) + nameGrace}
	for _, addr := range ev.Addrs[:min(len(ev.Addrs), addrsEach)] {
		addr = addr.Unmap()
		el := c.by[addr]
		if el == nil {
			if c.order.Len() >= c.max {
				oldest := c.order.Front()
				delete(c.by, oldest.Value.(*address).addr) //nolint:forcetypeassert // only addresses are in it
				c.order.Remove(oldest)
			}
			c.by[addr] = c.order.PushBack(&address{addr, []name{fresh}})
			continue
		}
		c.order.MoveToBack(el)
		a := el.Value.(*address) //nolint:forcetypeassert // as above
		kept := a.names[:0]
		for _, n := range a.names {
			if n.text != fresh.text || n.asker != fresh.asker {
				kept = append(kept, n)
			}
		}
		if len(kept) == namesEach {
			kept = append(kept[:0], kept[1:]...)
		}
		kept = append(kept, fresh)
		a.names = kept
	}
}

// of is the name that this process asked for, else the one asked for last.
func (c *names) of(addr netip.Addr, who event.ProcessKey, now uint64) string {
	el := c.by[addr.Unmap()]
	if el == nil {
		return ""
	}
	a := el.Value.(*address) //nolint:forcetypeassert // only addresses are in it
	last := ""
	for i := len(a.names) - 1; i >= 0; i-- {
		n := a.names[i]
		if n.expiry < now {
			continue
		}
		if n.asker == who {
			return n.text
		}
		if last == "" {
			last = n.text
		}
	}
	return last
}
