package respond

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// What stays open to an isolated host is pinned when the isolation begins, and only a
// list that an admin signed changes it: a stolen node could else open the host towards
// an address of its own. The sensor holds the newest such list, whose serial never goes
// back. Where one is held an isolation begins with its nodes, else with those that the
// cluster names then.
//
// What was open stays so until a node of the new list has been reached: an admin who
// signs before the nodes run loses no host, and one who signs a stolen node out is rid
// of it with the first answer of another, which the stolen one cannot keep away.

const (
	// maxNodesFile bounds the file of the signed list: its payload, its signature and
	// the signer's chain, encoded.
	maxNodesFile = 128 << 10
	// reachEvery is how many of Config.Tick are between two tries to reach a node of a new list.
	reachEvery = 10
	// reachPatience is how long one such try may take.
	reachPatience = 5 * time.Second
	// maxNamed bounds the addresses that one message names.
	maxNamed = 8
)

// nodeList is what counts of a signed list.
type nodeList struct {
	Serial   uint64           `json:"serial"`
	Operator string           `json:"operator"`
	NotAfter int64            `json:"not_after"` // Unix ns
	Nodes    []netip.AddrPort `json:"nodes"`
}

// String says whose word it is.
func (l *nodeList) String() string {
	return fmt.Sprintf("the list of nodes that %s signed at %s", l.Operator, time.Unix(0, int64(l.Serial)).UTC().Format(time.RFC3339)) //nolint:gosec // checked by nodelist
}

// signedNodes is the newest signed list, on disk and in memory. Responder.mu guards it.
type signedNodes struct {
	file   sealed
	serial uint64    // of the newest that was ever taken, whatever became of it
	list   *nodeList // nil: none that can be used
}

// signedNodesFile is nodes.signed.
type signedNodesFile struct {
	// Serial is kept beside: a list that has ended must still keep older ones away.
	Serial uint64 `json:"serial"`
	Signed []byte `json:"signed"`
}

func openSignedNodes(path string) signedNodes {
	return signedNodes{file: sealed{path: path, magic: "vedette-signed-nodes-1", max: maxNodesFile}}
}

// loadNodes reads the list of before the restart, and verifies it again. mu is held.
func (r *Responder) loadNodes() {
	var stored signedNodesFile
	switch err := r.signed.file.load(&stored); {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		// What is lost is an order among lists. Refusing all of them until a person signs
		// again would leave the host with what the cluster names, which is less.
		kept := r.signed.file.path + ".damaged"
		r.cfg.Logger.Error("the signed list of nodes is damaged; the next that a coordinator brings is taken", "error", err,
			"kept", kept, "keep_error", os.Rename(r.signed.file.path, kept))
		return
	}
	r.signed.serial = stored.Serial
	signed := new(sensorv1.SignedNodes)
	err := proto.Unmarshal(stored.Signed, signed)
	if err == nil {
		r.signed.list, err = r.verifyNodes(signed)
	}
	if err != nil {
		r.cfg.Logger.Warn("the signed list of nodes is not used any more; an admin signs a new one with 'vedette cluster sign-nodes'", "error", err)
	}
}

func (r *Responder) verifyNodes(signed *sensorv1.SignedNodes) (*nodeList, error) {
	l, signer, err := nodelist.Verify(signed, r.cfg.Roots(), r.cfg.ClusterID, r.cfg.Clock.Now())
	if err != nil {
		return nil, err
	}
	return &nodeList{Serial: l.GetSerial(), Operator: signer.ID, NotAfter: l.GetNotAfter(), Nodes: nodelist.Endpoints(l)}, nil
}

// TakeNodes is told the signed list that a coordinator brings, with every session and
// when it changes. What no admin signed, and what is not newer than the list that is
// held, changes nothing.
func (r *Responder) TakeNodes(signed *sensorv1.SignedNodes) {
	next, err := r.verifyNodes(signed)
	if err == nil {
		err = r.Revoked(signed.GetSignature().GetChain())
	}
	r.mu.Lock()
	defer r.unlockAndReport()
	if err != nil {
		if r.badNodes.allow(r.cfg.Clock.Boot()) {
			r.cfg.Logger.Warn("a signed list of nodes is not taken", "error", err)
		}
		return
	}
	lease, newest := r.record.Lease, r.signed.serial
	if lease != nil {
		newest = max(newest, lease.newest())
	}
	if next.Serial <= newest {
		if next.Serial < newest && r.badNodes.allow(r.cfg.Clock.Boot()) {
			r.cfg.Logger.Warn("an older signed list of nodes is not taken: the coordinator that brought it is behind, or worse", "serial", next.Serial, "held", newest)
		}
		return
	}
	r.signed.serial, r.signed.list = next.Serial, next
	r.cfg.Logger.Info("a signed list of nodes is held", "operator", next.Operator, "serial", next.Serial, "nodes", next.Nodes)
	raw, err := proto.Marshal(signed)
	if err == nil {
		err = r.signed.file.save(signedNodesFile{Serial: next.Serial, Signed: raw})
	}
	if err != nil {
		r.cfg.Logger.Error("the signed list of nodes is not saved; after a restart the one before is held until a coordinator brings it again", "error", err)
	}
	if lease == nil {
		return
	}
	lease.offer(next)
	_ = r.save() // logged there; nodes.signed says the same
	r.wake()
}

// offer opens a newer list beside what is open.
func (l *lease) offer(next *nodeList) {
	l.Next = next
	if sameNodes(l.Nodes, next.Nodes) {
		l.Serial, l.Next = next.Serial, nil
	}
}

// newest is the serial of the newest list that a lease knows of.
func (l *lease) newest() uint64 {
	if l.Next != nil {
		return max(l.Serial, l.Next.Serial)
	}
	return l.Serial
}

// pin is what an isolation that begins now leaves open. mu is held.
func (r *Responder) pin(known []netip.AddrPort) (nodes []netip.AddrPort, serial uint64) {
	if l := r.signed.list; l != nil && l.NotAfter > r.cfg.Clock.Now().UnixNano() {
		return l.Nodes, l.Serial
	}
	return known, 0
}

// toOpen is what an isolation ordered now would leave open.
func (r *Responder) toOpen() []netip.AddrPort {
	known := r.cfg.NodeAddresses()
	r.mu.Lock()
	defer r.mu.Unlock()
	if lease := r.record.Lease; lease != nil {
		return lease.open()
	}
	nodes, _ := r.pin(known)
	return nodes
}

// Pinned are the coordinators' addresses that are open while this host is isolated: no
// other is worth dialling. Nil while it is not.
func (r *Responder) Pinned() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Lease == nil {
		return nil
	}
	return r.record.Lease.open()
}

// open is what stays open: the nodes of a new list first, since there is an end to what
// can stay open.
func (l *lease) open() []netip.AddrPort {
	if l.Next == nil {
		return slices.Clone(l.Nodes)
	}
	nodes := slices.Clone(l.Next.Nodes)
	for _, node := range l.Nodes {
		if !slices.Contains(nodes, node) && len(nodes) < isolation.MaxNodes {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// nodesOf takes over what stays open to the isolation that another one replaces: a new
// order does not make the cluster's unsigned word count.
func (l *lease) nodesOf(previous *lease) {
	l.Nodes, l.Serial, l.Next = previous.Nodes, previous.Serial, previous.Next
}

// widen opens an isolation that began with a signed list, none of whose nodes answered,
// also to those that the cluster names, until one of the list does: a list that nobody
// renewed must make a host neither unreachable nor impossible to isolate. Who would make
// use of it needs a stolen node and all the others kept away. It says what it did, ""
// for nothing. mu is held.
func (r *Responder) widen(lease *lease) string {
	if r.ctx.Err() != nil || lease.Serial == 0 || lease.Next != nil || r.signed.list == nil || lease.Serial != r.signed.list.Serial ||
		!slices.ContainsFunc(r.known, func(node netip.AddrPort) bool { return !slices.Contains(lease.Nodes, node) }) {
		return ""
	}
	lease.Next, lease.Nodes, lease.Serial = r.signed.list, r.known, 0
	_ = r.save() // logged there
	note := fmt.Sprintf("no node of %s answered, so those that the cluster names are open as well until one does: if the list is old, sign one with 'vedette cluster sign-nodes'; ", lease.Next)
	r.cfg.Logger.Warn("no node of the signed list answers; those that the cluster names are open as well", "operation", lease.Operation, "signed", lease.Next.Nodes, "named", lease.Nodes)
	return note
}

// follow compares what is open with what the cluster names, and returns the signed list
// that waits for one of its nodes to be reached, nil for none. mu is held.
func (r *Responder) follow() *nodeList {
	lease := r.record.Lease
	if lease == nil {
		r.unsigned = nil
		return nil
	}
	if len(lease.Nodes) == 0 && lease.Next == nil {
		if lease.Nodes, lease.Serial = r.pin(r.known); len(lease.Nodes) > 0 {
			_ = r.save() // logged there; found again after a restart
			r.wake()
		}
	}
	r.tellUnsigned(lease)
	return lease.Next
}

// tellUnsigned says once for each set which addresses the cluster names and nobody
// signed. mu is held.
func (r *Responder) tellUnsigned(lease *lease) {
	open := lease.open()
	unsigned := slices.DeleteFunc(slices.Clone(r.known), func(node netip.AddrPort) bool {
		return node.Addr().IsLoopback() || slices.Contains(open, node)
	})
	slices.SortFunc(unsigned, netip.AddrPort.Compare)
	if lease.Phase != phaseApplied || slices.Equal(unsigned, r.unsigned) {
		return
	}
	if len(unsigned) > 0 && !r.unsignedTold.allow(r.cfg.Clock.Boot()) {
		return // told later
	}
	if r.unsigned = unsigned; len(unsigned) == 0 {
		return
	}
	r.cfg.Logger.Warn("the cluster names coordinator addresses that no admin has signed; they stay shut while this host is isolated",
		"operation", lease.Operation, "addresses", unsigned, "remedy", "if they are right, an admin runs 'vedette cluster sign-nodes'")
	r.report(r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, fmt.Sprintf(
		"the cluster names coordinator addresses that no admin has signed, and they stay shut while this host is isolated: %s. If they are right, an admin runs 'vedette cluster sign-nodes'; if nobody added a node, a coordinator may be stolen",
		inWords(unsigned))))
}

// reach asks whether a node of a new list answers; from then on only the list's are open.
func (r *Responder) reach(ctx context.Context, next *nodeList) {
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	if r.cfg.Reachable(ctx, next.Nodes) != nil {
		return // asked again
	}
	r.mu.Lock()
	defer r.unlockAndReport()
	lease := r.record.Lease
	if lease == nil || lease.Next != next {
		return
	}
	lease.Nodes, lease.Serial, lease.Next = next.Nodes, next.Serial, nil
	_ = r.save() // logged there; it is reached again after a restart
	r.cfg.Logger.Info("isolation follows a signed list of nodes", "operation", lease.Operation, "operator", next.Operator, "serial", next.Serial, "nodes", next.Nodes)
	if lease.Phase == phaseApplied {
		r.report(r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, fmt.Sprintf("follows %s: open to %s", next, inWords(next.Nodes))))
	}
	r.wake()
}

func sameNodes(a, b []netip.AddrPort) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.AddrPort.Compare)
	slices.SortFunc(b, netip.AddrPort.Compare)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func inWords(nodes []netip.AddrPort) string {
	var texts []string
	for _, node := range nodes[:min(len(nodes), maxNamed)] {
		texts = append(texts, node.String())
	}
	if more := len(nodes) - maxNamed; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}
