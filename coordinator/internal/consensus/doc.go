// Package consensus makes several coordinator nodes one: a command proposed on
// any node is applied on all of them, in one order, or on none.
//
// Its one idea: an answer from [Node.Propose] means that the command is fsynced
// on a quorum and applied to the leader's store. Nothing weaker is ever
// acknowledged, and where nobody can know (the leader died with the answer), the
// error says so: [ErrUncertain].
//
// Invariants: the log is hashicorp/raft's on raft-wal, one directory a node; the
// store is derived from it and carries the index it stands at; raft, forwarded
// proposals and membership travel as streams of one QUIC connection a peer, told
// apart by their first byte. Only this package knows raft.
//
// Both metrics libraries (raft reports to hashicorp/go-metrics, raft-wal to its
// collector) discard by default, and are left so.
package consensus
