package client

import (
	"fmt"
	"iter"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// ErrAuditBroken is what VerifyAudit wraps when the chain does not hold.
var ErrAuditBroken = audit.ErrBroken

// Chain is a stretch of the audit record that holds together.
type Chain struct {
	// From and To are the first and last index; both 0 for an empty record.
	From, To uint64
	// Head is the hash of the last entry.
	Head []byte
}

// VerifyAudit computes the hash chain anew from the entries, in order. A stretch
// that starts at entry 1 must start the chain; a later one is checked from what its
// first entry names as the one before. It returns how far the chain holds, also
// with an error.
func VerifyAudit(entries iter.Seq2[*operatorv1.AuditEntry, error]) (Chain, error) {
	var c Chain
	previous := audit.Genesis()
	one := make([]*operatorv1.AuditEntry, 1)
	for e, err := range entries {
		if err != nil {
			return c, err
		}
		if c.To == 0 {
			if e.GetIndex() == 0 {
				return c, fmt.Errorf("%w: there is no entry 0", ErrAuditBroken)
			}
			c.From, c.To = e.GetIndex(), e.GetIndex()-1
			if c.From > 1 {
				previous = e.GetPrevious()
			}
		}
		one[0] = e
		next, err := audit.Verify(c.To, previous, one)
		if err != nil {
			return c, err
		}
		previous = next
		c.To, c.Head = e.GetIndex(), next
	}
	return c, nil
}
