package isolation

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Flags of a table that x/sys/unix lacks (linux/netfilter/nf_tables.h).
const (
	tableOwner   = 2 // NFT_TABLE_F_OWNER, since Linux 5.12
	tablePersist = 4 // NFT_TABLE_F_PERSIST, since Linux 6.9

	tableOwnerAttr = 7 // NFTA_TABLE_OWNER

	msgDestroyTable = 26 // NFT_MSG_DESTROYTABLE, since Linux 6.3
)

// ErrHeld says that another living process owns the table.
var ErrHeld = errors.New("the isolation's nftables table is held by another process, such as a sensor that still runs: stop that one first")

// ownedTable is a table that the kernel lets nobody but its owner's socket change: nft
// flush ruleset passes it over, and deleting it or a rule of it is refused. When the owner
// goes, killed or not, the table stays, and whoever comes next may take it.
const ownedTable = tableOwner | tablePersist

// heldTable is one that goes when its owner's socket does.
const heldTable = tableOwner

// flags of the table.
func (b *Barrier) flags() uint32 {
	if b.owning() {
		return ownedTable
	}
	return 0
}

// Hold is Apply for as long as this process lives, for the time until a lease is on disk:
// the kernel takes the table away when the process ends, however it ends. It does nothing
// where a cut is applied already or tables cannot be owned, and must be followed by Apply
// or Remove.
func (b *Barrier) Hold(spec Spec) error {
	spec, err := spec.normal()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.supported(); err != nil {
		return err
	}
	if !b.owning() || b.current != nil {
		return nil
	}
	surround, err := b.surroundings()
	if err != nil {
		return err
	}
	return b.explain(b.commit(&applied{spec: spec, surround: surround, nonce: newProbeNonce()}, heldTable))
}

// drain throws away the answers to a transaction that failed: each of its messages may
// have one, and the next transaction would take them for its own.
func drain(conn *netlink.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("draining the nftables socket: %w", err)
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		var scrap [1]byte
		for {
			switch _, _, err := unix.Recvfrom(int(fd), scrap[:], unix.MSG_DONTWAIT|unix.MSG_TRUNC); {
			case errors.Is(err, unix.EAGAIN):
				return true
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS):
			case err != nil:
				failed = err
				return true
			}
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("draining the nftables socket: %w", err)
	}
	return nil
}

// ownerConn is the socket that owns the table, from the first transaction until Remove or
// Close.
func (b *Barrier) ownerConn() (*netlink.Conn, error) {
	if b.owner != nil {
		return b.owner, nil
	}
	conn, err := b.sized()
	if err != nil {
		return nil, err
	}
	b.owner = conn
	return conn, nil
}

// Disown lets go of the table until the next transaction. The table stays in force, and
// anybody may change it, as on a kernel whose tables have no owner.
func (b *Barrier) Disown() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disown()
}

func (b *Barrier) disown() {
	if b.owner != nil {
		_ = b.owner.Close()
		b.owner = nil
	}
}

// sized is a socket for transactions.
func (b *Barrier) sized() (*netlink.Conn, error) {
	conn, err := b.netfilter()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(conn.SetReadBuffer(netlinkBufferBytes), conn.SetWriteBuffer(netlinkBufferBytes)); err != nil {
		return nil, errors.Join(fmt.Errorf("sizing the nftables socket: %w", err), conn.Close())
	}
	return conn, nil
}

// transact commits a batch in the namespace.
func (b *Barrier) transact(transaction *batch) error {
	if !b.owning() {
		conn, err := b.sized()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		return transaction.send(conn)
	}
	conn, err := b.ownerConn()
	if err != nil {
		return err
	}
	if err = transaction.send(conn); err == nil {
		return nil
	}
	// A socket that is of no use any more loses us the table; the next one takes it back.
	if stale := drain(conn); stale != nil {
		b.disown()
		err = errors.Join(err, stale)
	}
	return err
}

// held says whether the table is one that another living process owns.
func (b *Barrier) held() bool {
	conn, err := b.netfilter()
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	reply, err := conn.Execute(request(unix.NFT_MSG_GETTABLE, netlink.Dump, unix.NFPROTO_NETDEV))
	if err != nil {
		return false
	}
	for _, message := range reply {
		if len(message.Data) < nfgenmsgBytes {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(message.Data[nfgenmsgBytes:])
		if err != nil {
			return false
		}
		attributes.ByteOrder = binary.BigEndian
		var name string
		owner := false
		for attributes.Next() {
			switch attributes.Type() {
			case unix.NFTA_TABLE_NAME:
				name = attributes.String()
			case tableOwnerAttr:
				owner = true
			}
		}
		if name == TableName && owner {
			return true
		}
	}
	return false
}
