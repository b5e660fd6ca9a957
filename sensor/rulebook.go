package sensor

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
)

const (
	// maxRulesFile bounds the stored sets: two, in base64.
	maxRulesFile = 4 * ruleset.MaxPayload
	// maxTries is how often a sensor that ends within trialTime starts with the same set: then
	// it goes back to the one before by itself, since nobody can tell it to.
	maxTries  = 3
	trialTime = time.Minute
	// maxRefusedTold bounds the refused rules that the cluster is told one by one.
	maxRefusedTold = 50
	maxRefusedText = 300
)

// ruleBook holds the newest set of rules that an admin signed and this host was ever shown,
// and the one that it names to go back to. One of the two is in use, as the cluster says;
// never another: a node cannot bring back what was replaced, only what a newer set allows.
type ruleBook struct {
	path    string
	cluster string
	roots   func() *x509.CertPool      // of the operators
	revoked func(chain [][]byte) error // says who is no operator any more; nil: nobody
	log     *slog.Logger
	release string        // of this sensor
	wake    chan struct{} // another order waits

	mu      sync.Mutex
	stored  storedRules
	newest  *sensorv1.RuleSet // nil: none
	base    *sensorv1.RuleSet // that newest names, where it is here
	order   *sensorv1.Rules   // that waits
	inUse   uint64
	refused []error
	failure string
	failed  uint64
	costNs  uint64
}

// storedRules is the file: sets prove themselves by their signatures.
type storedRules struct {
	Newest []byte `json:"newest"` // sensorv1.SignedRules
	Base   []byte `json:"base"`
	Use    uint64 `json:"use"`
	// Tries are the starts with what is to be used that did not last; see settled.
	Tries int `json:"tries"`
	// GaveUp is by version the release of the sensor that ended too often with it: another
	// release may live with it, this one must not be told to use it again.
	GaveUp map[uint64]string `json:"gave_up,omitempty"`
}

// openRules reads what was held last. A set that cannot be used is said and set aside: the
// cluster sends it again.
func openRules(path, cluster string, roots func() *x509.CertPool, log *slog.Logger) *ruleBook {
	b := &ruleBook{path: path, cluster: cluster, roots: roots, log: log, wake: make(chan struct{}, 1)}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = b.restore(raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("the stored rules are not used; the built-in ones and those of rules_dir are, until a coordinator sends them again", "error", err, "kept", path+".damaged")
		_ = os.Rename(path, path+".damaged") // for whoever wants to know
		b.stored, b.newest, b.base = storedRules{}, nil, nil
	}
	return b
}

func (b *ruleBook) restore(raw []byte) error {
	if len(raw) > maxRulesFile {
		return fmt.Errorf("%s is longer than %d bytes", b.path, maxRulesFile)
	}
	if err := json.Unmarshal(raw, &b.stored); err != nil {
		return fmt.Errorf("reading the stored rules: %w", err)
	}
	for _, set := range []struct {
		raw  []byte
		into **sensorv1.RuleSet
	}{{b.stored.Newest, &b.newest}, {b.stored.Base, &b.base}} {
		if len(set.raw) == 0 {
			continue
		}
		signed := new(sensorv1.SignedRules)
		if err := proto.Unmarshal(set.raw, signed); err != nil {
			return fmt.Errorf("reading the stored rules: %w", err)
		}
		decoded, _, err := ruleset.Verify(signed, b.roots(), b.cluster, time.Now())
		if err != nil {
			return err
		}
		*set.into = decoded
	}
	return nil
}

// take is told by a session what this host is to use; it is carried out by run.
func (b *ruleBook) take(order *sensorv1.Rules) {
	b.mu.Lock()
	if before := b.order; before != nil && len(order.GetSets()) == 0 {
		// Its node takes what it sent before for held.
		order = &sensorv1.Rules{Use: order.GetUse(), Sets: before.GetSets()}
	}
	b.order = order
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// next takes up what an order brings, and returns what is to be used by it. It is an error
// when this host must not, or cannot, do what it says.
func (b *ruleBook) next() (set detect.Set, due bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	order := b.order
	b.order = nil
	if order == nil {
		return set, false, nil
	}
	changed, use := false, order.GetUse()
	set.Version = use
	for _, signed := range order.GetSets() {
		took, err := b.hold(signed)
		if err != nil {
			return set, false, err
		}
		changed = changed || took
	}
	switch {
	case use == b.newest.GetVersion():
	case use == b.newest.GetBase() && (use == 0 || b.base.GetVersion() == use):
	case use == b.newest.GetBase():
		return set, false, fmt.Errorf("the coordinator says to go back to version %d of the rules and does not send it", use)
	default:
		return set, false, fmt.Errorf("the coordinator says to use version %d of the rules; this host holds version %d, which only allows itself and version %d",
			use, b.newest.GetVersion(), b.newest.GetBase())
	}
	gaveUp := b.gaveUp(use)
	if changed || gaveUp == nil && b.stored.Use != use {
		if gaveUp == nil {
			b.stored.Use, b.stored.Tries = use, 1
		}
		if err := b.save(); err != nil {
			b.log.Error("the rules are not saved; after a restart those before are in use until a coordinator sends them again", "error", err)
		}
	}
	if gaveUp != nil {
		return set, false, gaveUp
	}
	return b.set(use), use != b.inUse || b.failed != 0, nil
}

// gaveUp says why this release does not use a version any more; nil: it may.
func (b *ruleBook) gaveUp(version uint64) error {
	if by, is := b.stored.GaveUp[version]; !is || by != b.release {
		return nil
	}
	return fmt.Errorf("version %d of the rules: the sensor ended %d times within %s of starting with it", version, maxTries, trialTime)
}

// hold keeps a set when it is the newest one, or the one that the newest names.
func (b *ruleBook) hold(signed *sensorv1.SignedRules) (took bool, err error) {
	raw, err := proto.Marshal(signed)
	if err != nil || bytes.Equal(raw, b.stored.Newest) || bytes.Equal(raw, b.stored.Base) {
		return false, err
	}
	set, _, err := ruleset.Verify(signed, b.roots(), b.cluster, time.Now())
	if err != nil {
		return false, err
	}
	version := set.GetVersion()
	isBase := version == b.newest.GetBase() && bytes.Equal(ruleset.Digest(signed.GetPayload()), b.newest.GetBaseDigest())
	if version == b.newest.GetVersion() && !bytes.Equal(signed.GetPayload(), payloadOf(b.stored.Newest)) {
		return false, fmt.Errorf("%w: there are two versions %d; the one that came first is kept", ruleset.ErrSequence, version)
	}
	if version <= b.newest.GetVersion() && !isBase {
		return false, nil // older: of no use here, and no harm
	}
	if b.revoked != nil {
		if err := b.revoked(signed.GetSignature().GetChain()); err != nil {
			return false, fmt.Errorf("version %d of the rules: %w; an admin pushes it again", version, err)
		}
	}
	if isBase {
		b.stored.Base, b.base = raw, set
		return true, nil
	}
	if b.newest != nil && set.GetIssuedAt() < b.newest.GetIssuedAt() {
		return false, fmt.Errorf("%w: version %d was signed before version %d, which is held here", ruleset.ErrSequence, version, b.newest.GetVersion())
	}
	// What it goes back to may be what was the newest here, or that one's own base.
	named := func(raw []byte) bool {
		return len(raw) > 0 && bytes.Equal(ruleset.Digest(payloadOf(raw)), set.GetBaseDigest())
	}
	switch {
	case named(b.stored.Newest):
		b.base, b.stored.Base = b.newest, b.stored.Newest
	case !named(b.stored.Base):
		b.base, b.stored.Base = nil, nil
	}
	b.newest, b.stored.Newest = set, raw
	return true, nil
}

// payloadOf is a stored set's.
func payloadOf(raw []byte) []byte {
	signed := new(sensorv1.SignedRules)
	if proto.Unmarshal(raw, signed) != nil {
		return nil
	}
	return signed.GetPayload()
}

// set is one of the two that are held, as the rules' stage takes it.
func (b *ruleBook) set(version uint64) detect.Set {
	of := b.newest
	if version != b.newest.GetVersion() {
		of = b.base
	}
	if version == 0 || of == nil {
		return detect.Set{}
	}
	set := detect.Set{Version: version}
	for _, f := range of.GetFiles() {
		set.Files = append(set.Files, detect.File{Path: f.GetPath(), Raw: f.GetText()})
	}
	return set
}

// used notes what came of it.
func (b *ruleBook) used(version uint64, refused []error, cost time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure, b.failed = "", 0
	if err != nil {
		b.failure, b.failed = err.Error(), version
		return
	}
	b.inUse, b.refused, b.costNs = version, refused, uint64(max(cost, 0)) //nolint:gosec // not negative
}

// current is the set that is in use, to make rules ready anew beside others.
func (b *ruleBook) current() detect.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set(b.inUse)
}

// held is what the cluster is told.
func (b *ruleBook) held() *sensorv1.RulesHeld {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := &sensorv1.RulesHeld{
		Version: b.inUse, Newest: b.newest.GetVersion(), RefusedCount: uint32(len(b.refused)), //nolint:gosec // some thousands
		Failure: short(b.failure), FailedVersion: b.failed, CostNs: b.costNs,
	}
	for _, err := range b.refused[:min(len(b.refused), maxRefusedTold)] {
		told := &sensorv1.RefusedRule{Reason: short(err.Error())}
		var at *sigma.Error
		if errors.As(err, &at) {
			told = &sensorv1.RefusedRule{Path: short(at.Path), Line: uint32(max(at.Line, 0)), Reason: short(at.Msg), Unsupported: at.Unsupported} //nolint:gosec // a line
		}
		out.Refused = append(out.Refused, told)
	}
	return out
}

// short bounds what a message holds, and makes text of it.
func short(s string) string {
	return string(bytes.ToValidUTF8([]byte(s[:min(len(s), maxRefusedText)]), []byte("?")))
}

// tried counts a start with what is to be used, also one that had settled: the sensor may be
// another release since. It is an error when it was started too often.
func (b *ruleBook) tried() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	use := b.stored.Use
	if use == 0 {
		return nil
	}
	if err := b.gaveUp(use); err != nil {
		return err
	}
	if _, other := b.stored.GaveUp[use]; other {
		delete(b.stored.GaveUp, use)
		b.stored.Tries = 0
	}
	b.stored.Tries++
	// What the newest names is the last to go back to: it stays, however often the sensor ends.
	if b.stored.Tries > maxTries && use == b.newest.GetVersion() {
		if b.stored.GaveUp == nil {
			b.stored.GaveUp = make(map[uint64]string)
		}
		for version := range b.stored.GaveUp {
			if version != b.newest.GetBase() {
				delete(b.stored.GaveUp, version) // it can never be used again
			}
		}
		b.stored.GaveUp[use] = b.release
	}
	if err := b.save(); err != nil {
		b.log.Error("noting a start with the rules", "error", err)
	}
	return b.gaveUp(use)
}

// stopped says that the sensor ends because it was told to, which says nothing of the set.
func (b *ruleBook) stopped() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stored.Tries == 0 || b.stored.Use != b.inUse {
		return
	}
	b.stored.Tries--
	if err := b.save(); err != nil {
		b.log.Error("noting a stop with the rules", "error", err)
	}
}

// settled says that the sensor lives with the set in use.
func (b *ruleBook) settled() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stored.Tries == 0 || b.stored.Use != b.inUse {
		return
	}
	b.stored.Tries = 0
	if err := b.save(); err != nil {
		b.log.Error("noting that the rules have settled", "error", err)
	}
}

// save replaces the file as a whole.
func (b *ruleBook) save() (err error) {
	raw, err := json.Marshal(b.stored)
	if err != nil {
		return fmt.Errorf("encoding the rules: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(b.path), ".rules-*") // 0600
	if err != nil {
		return fmt.Errorf("saving the rules: %w", err)
	}
	_, err = temp.Write(raw)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), b.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("saving the rules: %w", err), os.Remove(temp.Name()))
	}
	return nil
}
