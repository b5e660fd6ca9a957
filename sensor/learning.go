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
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// maxLearningFile bounds the stored packs and answers.
	maxLearningFile = 8 << 20
	// maxAnswers to orders to forget and dispositions are remembered, so that one that comes again
	// is not carried out again.
	maxAnswers = 1000
	// maxMadeRoles are remembered with when their packs were made: a host has one role at a time.
	maxMadeRoles = 256
)

// learner is what this host learns from, as the book uses it.
type learner interface {
	UsePack(*baseline.Pack)
	UseFleet(*baseline.Pack)
	Pause(until time.Time)
	Unlearn(match func(event.Behaviour, time.Time) bool, keys ...event.BehaviourKey) (forgot int, kernel []uint64)
}

// learningBook holds the packs that this host goes by, and answers to what it was told. Who may say
// what is package pack's; what a pack may bring about is package baseline's.
type learningBook struct {
	path    string
	cluster string
	host    string
	roots   func() *x509.CertPool
	revoked func(chain [][]byte) error
	log     *slog.Logger
	// baseline, learns, judged and unknow are set before the uplink runs.
	baseline learner
	learns   func() bool // whether novelty is no finding yet
	judged   judged
	unknow   func(keys ...uint64) error
	// deciding is held from what is forgotten here to its being forgotten in the kernel, so that
	// the kernel is told to keep nothing of it back in between (keeper).
	deciding sync.Locker
	// skew is how far the coordinators' clock is ahead of this one; nil: not at all.
	skew func() time.Duration

	mu     sync.Mutex
	stored storedLearning
	pack   *sensorv1.Pack // in use, without its behaviours; nil: none
	sum    []byte         // its payload's
	fleet  []byte         // of the payload of the fleet's pack in use; nil: none
}

// storedLearning is the file.
type storedLearning struct {
	Pack    []byte         `json:"pack"`            // sensorv1.SignedPack
	Fleet   []byte         `json:"fleet,omitempty"` // the same of the whole fleet
	Answers []storedAnswer `json:"answers"`
	// Made is when the newest pack that an operator signed for each role was made (Unix ns): an older
	// one is not taken, whatever came between.
	Made map[string]int64 `json:"made"`
}

type storedAnswer struct {
	ID         string `json:"id"`
	Behaviours uint32 `json:"behaviours"`
}

func openLearning(path, cluster, host string, roots func() *x509.CertPool, log *slog.Logger) *learningBook {
	b := &learningBook{path: path, cluster: cluster, host: host, roots: roots, log: log, deciding: new(sync.Mutex)}
	raw, err := os.ReadFile(path)
	if err == nil {
		if len(raw) > maxLearningFile {
			err = fmt.Errorf("%s is longer than %d bytes", path, maxLearningFile)
		} else {
			err = json.Unmarshal(raw, &b.stored)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("the stored baseline pack is not used; the cluster tells it again", "error", err, "kept", path+".damaged")
		b.stored = storedLearning{}
		_ = os.Rename(path, path+".damaged") // for whoever wants to know
	}
	return b
}

// begin uses the packs that were stored, as far as they count still.
func (b *learningBook) begin(l learner, learns func() bool, unknow func(keys ...uint64) error) {
	b.baseline, b.learns, b.unknow = l, learns, unknow
	for _, stored := range []*[]byte{&b.stored.Pack, &b.stored.Fleet} {
		if len(*stored) == 0 {
			continue
		}
		signed := new(sensorv1.SignedPack)
		err := proto.Unmarshal(*stored, signed)
		if err == nil {
			err = b.use(signed)
		}
		if err == nil {
			continue
		}
		b.log.Info("a stored baseline pack counts no more", "reason", err)
		*stored = nil
		if err := b.save(); err != nil {
			b.log.Warn("the stored baseline pack is not removed", "error", err)
		}
	}
}

// held names the packs in use.
func (b *learningBook) held() (role, fleet []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sum, b.fleet
}

// errNoUse: a pack that this host does not take, for a reason that is nobody's fault.
var errNoUse = errors.New("the pack is of no use here")

// takePack is told a pack by a coordinator, of its role or of the fleet.
func (b *learningBook) takePack(signed *sensorv1.SignedPack) {
	err := b.use(signed)
	switch {
	case errors.Is(err, errNoUse):
		b.log.Debug("baseline pack not taken", "reason", err)
		return
	case err != nil:
		b.log.Error("a baseline pack is not taken; what this host goes by stays", "error", err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	raw, err := proto.Marshal(signed)
	if err == nil {
		if bytes.Equal(b.fleet, pack.Sum(signed)) {
			b.stored.Fleet = raw
		} else {
			b.stored.Pack = raw
		}
		err = b.save()
	}
	if err != nil {
		b.log.Error("the baseline pack is not saved; after a restart it is told again", "error", err)
	}
}

func (b *learningBook) use(signed *sensorv1.SignedPack) error {
	now := time.Now()
	p, signer, err := pack.Verify(signed, b.roots(), b.cluster, now)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.GetRole() == pack.Fleet {
		return b.useFleet(signed, p, signer)
	}
	held := b.pack
	if held.GetOperator() != "" && held.GetNotAfter() <= now.UnixNano() {
		held = nil
	}
	switch {
	case signer != nil && b.repealed(signed) != nil:
		return b.repealed(signed)
	case signer != nil && p.GetMadeAt() < b.stored.Made[p.GetRole()], signer != nil && held != nil && bytes.Equal(b.sum, pack.Sum(signed)):
		return fmt.Errorf("%w: it is in use, or one for its role that was made later was", errNoUse)
	case signer == nil && held.GetOperator() != "":
		return fmt.Errorf("%w: an operator's is in use", errNoUse)
	case signer == nil && p.GetOf() < pack.MinHosts:
		return fmt.Errorf("%w: a node made it of %d hosts, of fewer than %d it says nothing of a role", errNoUse, p.GetOf(), pack.MinHosts)
	case signer == nil && !b.learns():
		return fmt.Errorf("%w: this host has learnt, and a node's word does not count any more", errNoUse)
	}
	if signer != nil {
		b.made(p)
	}
	b.baseline.UsePack(packOf(p, signer != nil))
	b.log.Info("baseline pack in use", "role", p.GetRole(), "behaviours", len(p.GetBehaviours()), "hosts", p.GetOf(), "signed_by", p.GetOperator())
	p.Behaviours = nil
	b.pack, b.sum = p, pack.Sum(signed)
	return nil
}

// useFleet takes an operator's pack of the whole fleet; the lock is held.
func (b *learningBook) useFleet(signed *sensorv1.SignedPack, p *sensorv1.Pack, signer *link.Peer) error {
	switch {
	case signer == nil:
		return fmt.Errorf("%w: nobody signed the fleet's pack", errNoUse)
	case b.repealed(signed) != nil:
		return b.repealed(signed)
	case p.GetMadeAt() < b.stored.Made[pack.Fleet], bytes.Equal(b.fleet, pack.Sum(signed)):
		return fmt.Errorf("%w: it is in use, or one that was made later was", errNoUse)
	}
	b.made(p)
	b.baseline.UseFleet(packOf(p, true))
	b.log.Info("the fleet's baseline pack in use", "behaviours", len(p.GetBehaviours()), "hosts", p.GetOf(), "signed_by", p.GetOperator())
	b.fleet = pack.Sum(signed)
	return nil
}

// repealed says that who signed a pack is no operator any more.
func (b *learningBook) repealed(signed *sensorv1.SignedPack) error {
	if b.revoked == nil {
		return nil
	}
	if err := b.revoked(signed.GetSignature().GetChain()); err != nil {
		return fmt.Errorf("the pack: %w; another operator imports it again", err)
	}
	return nil
}

// made remembers when the newest that an operator signed for a role was made.
func (b *learningBook) made(p *sensorv1.Pack) {
	if b.stored.Made == nil {
		b.stored.Made = make(map[string]int64)
	}
	b.stored.Made[p.GetRole()] = p.GetMadeAt()
	for len(b.stored.Made) > maxMadeRoles {
		oldest := ""
		for role, at := range b.stored.Made {
			if role != p.GetRole() && role != pack.Fleet && (oldest == "" || at < b.stored.Made[oldest]) {
				oldest = role
			}
		}
		delete(b.stored.Made, oldest)
	}
}

func packOf(p *sensorv1.Pack, trusted bool) *baseline.Pack {
	out := &baseline.Pack{Trusted: trusted, Of: p.GetOf(), Behaviours: make([]baseline.Packed, 0, len(p.GetBehaviours()))}
	if p.GetNotAfter() != 0 {
		out.Until = time.Unix(0, p.GetNotAfter())
	}
	for _, one := range p.GetBehaviours() {
		out.Behaviours = append(out.Behaviours, baseline.Packed{Kind: event.BehaviourKind(one.GetKind()), //nolint:gosec // checked by package pack
			Subject: string(one.GetSubject()), Object: string(one.GetObject()), Hosts: one.GetHosts()})
	}
	return out
}

// takeLearning is told whether this host may learn, what it is to forget, and what its findings were.
func (b *learningBook) takeLearning(l *sensorv1.Learning) (answers []*sensorv1.Unlearnt) {
	until := time.Time{}
	if l.GetPauseUntil() != 0 {
		if until = time.Unix(0, l.GetPauseUntil()); b.skew != nil {
			until = until.Add(-b.skew())
		}
	}
	b.baseline.Pause(until)
	for _, signed := range l.GetUnlearn() {
		answers = append(answers, b.forget(signed))
	}
	for _, signed := range l.GetDispositions() {
		answers = append(answers, b.dispose(signed))
	}
	return slices.DeleteFunc(answers, func(a *sensorv1.Unlearnt) bool { return a == nil })
}

// forget carries an order out, once.
func (b *learningBook) forget(signed *sensorv1.SignedUnlearn) *sensorv1.Unlearnt {
	u, _, err := pack.VerifyUnlearn(signed, b.roots(), b.cluster, time.Now())
	if err = b.addressed(u.GetHost(), signed.GetSignature(), err); err != nil {
		b.log.Error("an order to forget is not carried out", "error", err)
		named, _ := pack.DecodeUnlearn(signed.GetPayload()) // nil where it cannot be read
		return refused(named.GetId(), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if earlier := b.answered(asOrder, u.GetId()); earlier != nil {
		return earlier
	}
	match, keys := b.matching(u)
	n, kernel, err := b.unlearn(match, keys)
	if err != nil {
		b.log.Error("the kernel still keeps back what is to be forgotten", "error", err)
		return refused(u.GetId(), fmt.Errorf("telling the kernel: %w", err))
	}
	b.log.Info("forgotten by order", "order", u.GetId(), "operator", u.GetOperator(), "behaviours", n, "kernel_keys", len(kernel))
	return b.answer(asOrder, u.GetId(), n)
}

// addressed says whether what was verified, or not, is by nobody who was revoked and for this host.
func (b *learningBook) addressed(host string, by *sensorv1.Signature, err error) error {
	if err == nil && b.revoked != nil {
		err = b.revoked(by.GetChain())
	}
	if err == nil && host != b.host {
		err = fmt.Errorf("it is for host %s, this is %s", host, b.host)
	}
	return err
}

// What was answered is kept by kind, or one order could pass for another with its id.
const (
	asOrder       = ""
	asDisposition = pack.DispositionID // no order has an id that begins so
)

// refused answers what is not carried out; nil where not even its id can be read: it is no answer to anything.
func refused(id string, err error) *sensorv1.Unlearnt {
	if id == "" {
		return nil
	}
	return &sensorv1.Unlearnt{Id: id, Failure: bounded(err)}
}

// answered is what was answered before, nil for nothing; the lock is held.
func (b *learningBook) answered(as, id string) *sensorv1.Unlearnt {
	i := slices.IndexFunc(b.stored.Answers, func(a storedAnswer) bool { return a.ID == as+id })
	if i < 0 {
		return nil
	}
	return &sensorv1.Unlearnt{Id: id, Behaviours: b.stored.Answers[i].Behaviours}
}

// answer makes one, and remembers it; the lock is held.
func (b *learningBook) answer(as, id string, n int) *sensorv1.Unlearnt {
	if b.stored.Answers = append(b.stored.Answers, storedAnswer{as + id, uint32(n)}); len(b.stored.Answers) > maxAnswers { //nolint:gosec // bounded by the baseline
		b.stored.Answers = b.stored.Answers[1:]
	}
	if err := b.save(); err != nil {
		b.log.Error("an answer to a coordinator is not saved; after a restart it may be carried out again", "error", err)
	}
	return &sensorv1.Unlearnt{Id: id, Behaviours: uint32(n)} //nolint:gosec // bounded by the baseline
}

func (b *learningBook) unlearn(match func(event.Behaviour, time.Time) bool, keys []event.BehaviourKey) (n int, kernel []uint64, err error) {
	b.deciding.Lock()
	defer b.deciding.Unlock()
	if n, kernel = b.baseline.Unlearn(match, keys...); len(kernel) > 0 {
		err = b.unknow(kernel...)
	}
	return n, kernel, err
}

// bounded is an error as a coordinator takes it.
func bounded(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), 512)], "?")
}

// matching is what an order names, with the keys of those in the pack, which the host may not have.
func (b *learningBook) matching(u *sensorv1.Unlearn) (match func(event.Behaviour, time.Time) bool, keys []event.BehaviourKey) {
	for _, key := range u.GetKeys() {
		keys = append(keys, event.BehaviourKey(key))
	}
	subject, since := string(u.GetSubject()), u.GetSince()
	acts := func(name string) bool { return name == subject || strings.HasPrefix(name, subject+" ") }
	match = func(one event.Behaviour, first time.Time) bool {
		switch {
		case subject != "":
			return acts(one.Subject) || one.Kind == event.BehaviourExec && acts(one.Object)
		case since != 0:
			return first.UnixNano() >= since
		}
		return false
	}
	for _, stored := range [][]byte{b.stored.Pack, b.stored.Fleet} {
		signed := new(sensorv1.SignedPack)
		if subject == "" || proto.Unmarshal(stored, signed) != nil {
			continue
		}
		inUse, _ := pack.Decode(signed.GetPayload()) // nil where none is
		for _, one := range inUse.GetBehaviours() {
			named := event.Behaviour{Kind: event.BehaviourKind(one.GetKind()), Subject: string(one.GetSubject()), Object: string(one.GetObject())} //nolint:gosec // checked by package pack
			if match(named, time.Time{}) {
				keys = append(keys, baseline.KeyOf(named.Kind, named.Subject, named.Object))
			}
		}
	}
	return match, keys
}

// save replaces the file as a whole; the lock is held.
func (b *learningBook) save() (err error) {
	raw, err := json.Marshal(b.stored)
	if err != nil {
		return fmt.Errorf("encoding what was learnt: %w", err)
	}
	if old, err := os.ReadFile(b.path); err == nil && bytes.Equal(old, raw) {
		return nil
	}
	temp, err := os.CreateTemp(filepath.Dir(b.path), ".learning-*") // 0600
	if err != nil {
		return fmt.Errorf("saving what was learnt: %w", err)
	}
	_, err = temp.Write(raw)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), b.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("saving what was learnt: %w", err), os.Remove(temp.Name()))
	}
	return nil
}
