// Package state is what a committed command means: it turns one command of the
// raft log into changes of the store.
//
// Its one idea is determinism: the same log gives the same rows on every node,
// for ever. So nothing here reads a clock, draws a number, or does any I/O but
// the transaction's; time, ids and nonces arrive inside the command; no map is
// ranged into a row. A test holds the imports to that.
//
// Invariants: a command that breaks a rule is rejected by a value
// ([raftv1.Result].Rejected), never by an error: an error means that the store
// is broken, and stops the node. Everything that people or authority did is
// chained into the audit record by the same transaction.
package state
