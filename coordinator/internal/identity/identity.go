// Package identity decides who is who: it holds the cluster's certificate
// authority, signs hosts and nodes, knows the operators' authority by its
// certificate, and draws ids and join tokens.
//
// Invariant: a certificate's names come from this package's caller and never
// from the request. A certificate request contributes its public key and the
// proof that the requester holds the private one; its subject, alternative
// names and extensions are ignored.
//
// The root is ECDSA P-256, as are node keys, because every TLS client knows
// it. Every node has the root's key, so nothing that it signs is ever an operator:
// those have an authority of their own (proto/operator), whose key no node holds.
package identity

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// How long certificates are good for.
const (
	// HostLifetime is short since a sensor renews over its session at half-life.
	HostLifetime = 24 * time.Hour
	// NodeLifetime is long since a node renews its own certificate, with the
	// authority it holds, when it starts and each time half of this is over.
	NodeLifetime = 365 * 24 * time.Hour
	// AuthorityLifetime is that of the cluster's root.
	AuthorityLifetime = 10 * 365 * 24 * time.Hour
	// TokenLifetime is the longest that a join token may be good for.
	TokenLifetime = time.Hour
	// backdate lets a certificate be used at once although the clock of who signed it is ahead, or
	// that of who looks at it behind, by an hour each.
	backdate = 2 * time.Hour
)

// Kinds of identity, as they stand in a certificate's URI.
const (
	KindHost = link.KindHost
	KindNode = link.KindNode
)

var (
	// ErrNotInitialised: the data directory holds no identity.
	ErrNotInitialised = errors.New("this data directory holds no node identity: run 'vedette-coordinator init' for a new cluster or 'vedette-coordinator join' for an existing one")
	// ErrInitialised: the data directory already belongs to a node.
	ErrInitialised = errors.New("this data directory already belongs to a node: choose another --data, or remove it when that node is to be forgotten")
	// ErrInsecureKey: somebody other than the owner may read a private key.
	ErrInsecureKey = errors.New("private key is readable by others")
	// ErrMismatch: the files of a data directory do not belong together.
	ErrMismatch = errors.New("data directory mixes the files of different clusters or nodes")
	// ErrDamaged: a file of a data directory is not what was written there.
	ErrDamaged = errors.New("the file is damaged: restore it from a backup, or remove this node from the cluster ('vedette cluster remove'), empty its data directory and join again with a new token")
	// ErrBadRequest: a certificate request that nobody may have signed.
	ErrBadRequest = errors.New("bad certificate request")
	// ErrBadName: an id outside the accepted alphabet.
	ErrBadName = link.ErrBadName
	// ErrNoOperators: a data directory of before operators had an authority of their own.
	ErrNoOperators = errors.New("this cluster's operators have no authority of their own, as those of older releases: make the cluster anew ('vedette-coordinator init'), and enrol its hosts again")
)

// CheckName accepts what may stand in a certificate as a node's name.
func CheckName(what, name string) error { return link.CheckName(what, name) }

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// randomName is length characters of lower-case base32, five random bits each.
func randomName(length int) string {
	raw := make([]byte, (length*5+7)/8)
	// crypto/rand.Read never fails on Linux: it would end the process instead.
	_, _ = rand.Read(raw)
	return lowerBase32.EncodeToString(raw)[:length]
}

// NewHostID draws the id of a newly enrolled host: 60 random bits.
func NewHostID() string { return "h-" + randomName(12) }

// NewOperationID draws the id of an isolation or a release.
func NewOperationID() string { return "op-" + randomName(12) }

// NewClusterID draws the id of a new cluster.
func NewClusterID() string { return "c-" + randomName(12) }

// IsHostID tells whether s has the form that NewHostID draws.
func IsHostID(s string) bool {
	rest, ok := strings.CutPrefix(s, "h-")
	if !ok || len(rest) != 12 {
		return false
	}
	_, err := lowerBase32.DecodeString(rest + "aaaa")
	return err == nil
}
