package respond

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Who is no operator any more is told by every coordinator, before anything else that
// it brings, as an admin signed it. The newest such list is held, here and on disk, and
// whoever is on it orders nothing: not with a grant that a coordinator brings, nor with
// one that a person carries. A host that no coordinator reaches acts by the list that it
// holds; it cannot know of a newer one.
//
// What was ordered before goes on to the end of its lease: a revocation ends what a
// person may do, not what they have done.

// maxRevokedFile bounds the file: a payload, its signature and the signer's chain, encoded.
const maxRevokedFile = 512 << 10

// revoked is the newest list, on disk and in memory. Responder.mu guards it.
type revoked struct {
	file   sealed
	serial uint64 // of the newest that was ever taken, whatever became of it
	names  revocation.Revoked
}

// revokedFile is operators.revoked.
type revokedFile struct {
	Serial uint64 `json:"serial"`
	Signed []byte `json:"signed"`
}

func openRevoked(path string) revoked {
	return revoked{file: sealed{path: path, magic: "vedette-revoked-operators-1", max: maxRevokedFile}}
}

// loadRevoked reads the list of before the restart, and verifies it again. mu is held.
func (r *Responder) loadRevoked() {
	var stored revokedFile
	switch err := r.revoked.file.load(&stored); {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		kept := r.revoked.file.path + ".damaged"
		r.cfg.Logger.Error("the list of revoked operators is damaged; until a coordinator brings it again, whoever is on it may order here", "error", err,
			"kept", kept, "keep_error", os.Rename(r.revoked.file.path, kept))
		return
	}
	signed := new(sensorv1.SignedRevocations)
	err := proto.Unmarshal(stored.Signed, signed)
	var l *sensorv1.Revocations
	if err == nil {
		// A clock that went back must not make a host forget: the list was verified when it came.
		l, _, err = revocation.Verify(signed, r.cfg.Roots(), r.cfg.ClusterID, latest(r.cfg.Clock.Now(), time.Unix(0, int64(stored.Serial)))) //nolint:gosec // it was taken
	}
	if err != nil {
		r.cfg.Logger.Error("the list of revoked operators is not used any more", "error", err)
		return
	}
	r.revoked.serial, r.revoked.names = stored.Serial, revocation.Names(l)
}

// TakeRevocations is told the list that a coordinator brings. What no admin signed, or
// one who is on the list that is held, and what is not newer than that, changes nothing.
func (r *Responder) TakeRevocations(signed *sensorv1.SignedRevocations) {
	l, signer, err := revocation.Verify(signed, r.cfg.Roots(), r.cfg.ClusterID, r.cfg.Clock.Now())
	r.mu.Lock()
	defer r.unlockAndReport()
	if err == nil && l.GetSerial() > r.revoked.serial {
		err = r.revoked.names.Check(signed.GetSignature().GetChain())
	}
	if err != nil {
		if r.badRevoked.allow(r.cfg.Clock.Boot()) {
			r.cfg.Logger.Warn("a list of revoked operators is not taken", "error", err)
		}
		return
	}
	if l.GetSerial() <= r.revoked.serial {
		if l.GetSerial() < r.revoked.serial && r.badRevoked.allow(r.cfg.Clock.Boot()) {
			r.cfg.Logger.Warn("an older list of revoked operators is not taken: the coordinator that brought it is behind, or worse", "serial", l.GetSerial(), "held", r.revoked.serial)
		}
		return
	}
	r.revoked.serial, r.revoked.names = l.GetSerial(), revocation.Names(l)
	raw, err := proto.Marshal(signed)
	if err == nil {
		err = r.revoked.file.save(revokedFile{Serial: l.GetSerial(), Signed: raw})
	}
	if err != nil {
		r.cfg.Logger.Error("the list of revoked operators is not saved; after a restart the one before is held until a coordinator brings it again", "error", err)
	}
	r.cfg.Logger.Info("a list of revoked operators is held", "by", signer.ID, "serial", l.GetSerial(), "names", len(l.GetOperators()))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Revoked returns an error when a chain (leaf first, DER) names somebody who is no
// operator any more.
func (r *Responder) Revoked(chain [][]byte) error {
	r.mu.Lock()
	names := r.revoked.names // replaced, never changed
	r.mu.Unlock()
	return names.Check(chain)
}

// signedByRevoked is the same for everybody who signed a grant.
func (r *Responder) signedByRevoked(signed *sensorv1.SignedGrant) error {
	for _, signature := range signed.GetSignatures()[:min(len(signed.GetSignatures()), grant.MaxSigners)] {
		if err := r.Revoked(signature.GetChain()); err != nil {
			return err
		}
	}
	return nil
}
