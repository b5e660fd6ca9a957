// Package clustertest runs a whole cluster in one process: real nodes, real
// QUIC on loopback, real files, and a network that can be cut.
//
// Its one idea: each node is reached through a relay of its own, whose address
// it advertises. A relay that drops datagrams is what a dead machine or a cut
// cable is to the others: silence, not a closed connection. So nothing in the
// nodes knows that it is under test.
package clustertest
