// Package client is the operator's side of the operator API: it reads the context
// files that hold an operator's identity, and talks to the cluster as one thing.
//
// Invariant: a caller never has to know which node answers. Every call is sent to
// the node that answered last; when that one is unreachable or has no leader, the
// next is tried, until one answers or there is no sense in trying on. Nothing is
// ever sent to a server that is not a node of the context's cluster: the TLS
// handshake ends before the first byte of a request otherwise.
//
// Writes may be repeated on another node because each of them either carries an
// idempotency key or has the same effect twice.
package client
