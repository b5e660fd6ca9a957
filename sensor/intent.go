package sensor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"crypto/x509"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxIntentFile bounds the stored intent: its policy alone may have 64 KiB.
const maxIntentFile = 1 << 20

// protectedLabel is what the configuration of a host can say and no coordinator can
// unsay: automation keeps its hands off.
const protectedLabel = "protected"

// intentBook holds the newest intent that an admin signed, and what the cluster
// says of this host, so that a host without a coordinator judges as the leader
// would. Before there is one, nothing is done without an order.
type intentBook struct {
	path    string
	cluster string
	roots   func() *x509.CertPool      // of the operators
	revoked func(chain [][]byte) error // says who is no operator any more; nil: nobody
	own     map[string]string          // labels in the configuration
	log     *slog.Logger
	// took has one when another intent is in force and no summary has told it: whoever
	// pulls the kill switch is told who holds it within seconds, not with the next summary.
	took chan struct{}

	mu     sync.Mutex
	stored storedIntent
	policy *intent.Policy
	host   intent.Host
}

// storedIntent is the file: the intent proves itself by its signature.
type storedIntent struct {
	Signed []byte            `json:"signed"` // sensorv1.SignedIntent
	Labels map[string]string `json:"labels"`
}

// openIntent reads what was held last. A file that cannot be used is said and set
// aside: the cluster tells the intent again with the next session.
func openIntent(path, cluster, hostID string, roots func() *x509.CertPool, own map[string]string, log *slog.Logger) *intentBook {
	b := &intentBook{path: path, cluster: cluster, roots: roots, own: own, log: log, took: make(chan struct{}, 1), host: intent.Host{ID: hostID}}
	b.policy, _ = intent.Compile(intent.Defaults()) // what package intent's tests show to compile
	raw, err := os.ReadFile(path)
	if err == nil {
		err = b.restore(raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("the stored intent is not used; nothing is done without an order until a coordinator tells it again", "error", err, "kept", path+".damaged")
		_ = os.Rename(path, path+".damaged") // for whoever wants to know; without it the next start says the same
	}
	b.setLabels(b.stored.Labels)
	return b
}

func (b *intentBook) restore(raw []byte) error {
	var stored storedIntent
	if len(raw) > maxIntentFile {
		return fmt.Errorf("%s is longer than %d bytes", b.path, maxIntentFile)
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		return fmt.Errorf("reading the stored intent: %w", err)
	}
	if len(stored.Signed) > 0 {
		policy, err := b.verified(stored.Signed)
		if err != nil {
			return err
		}
		b.policy = policy
	}
	b.stored = stored
	return nil
}

// verified compiles an intent that an admin signed for this cluster.
func (b *intentBook) verified(raw []byte) (*intent.Policy, error) {
	signed := new(sensorv1.SignedIntent)
	if err := proto.Unmarshal(raw, signed); err != nil {
		return nil, fmt.Errorf("reading the intent: %w", err)
	}
	in, _, err := intent.Verify(signed, b.roots(), b.cluster, time.Now())
	if err != nil {
		return nil, err
	}
	return intent.Compile(in)
}

// take is told by every session, and when an intent is applied. labels are nil when
// they are not told.
func (b *intentBook) take(signed *sensorv1.SignedIntent, labels map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	if signed != nil {
		took, err := b.replace(signed)
		if err != nil {
			b.log.Error("an intent is not taken; the one in force stays", "version_in_force", b.policy.Version(), "error", err)
		}
		if changed = took; took {
			select {
			case b.took <- struct{}{}:
			default: // the summary that is due will tell this one
			}
		}
	}
	if labels != nil && !maps.Equal(labels, b.stored.Labels) {
		b.stored.Labels, changed = labels, true
		b.setLabels(labels)
	}
	if !changed {
		return
	}
	if err := b.save(); err != nil {
		b.log.Error("the intent is not saved; after a restart the one before is in force until a coordinator tells it again", "error", err)
	}
}

func (b *intentBook) replace(signed *sensorv1.SignedIntent) (bool, error) {
	raw, err := proto.Marshal(signed)
	if err != nil || bytes.Equal(raw, b.stored.Signed) {
		return false, err
	}
	// The one that is held stays, whoever signed it: it was an admin's when it came.
	if b.revoked != nil {
		if err := b.revoked(signed.GetSignature().GetChain()); err != nil {
			return false, fmt.Errorf("%w; an admin applies it again", err)
		}
	}
	policy, err := b.verified(raw)
	if err != nil {
		return false, err
	}
	var held []byte
	if len(b.stored.Signed) > 0 {
		before := new(sensorv1.SignedIntent)
		if err := proto.Unmarshal(b.stored.Signed, before); err != nil {
			return false, fmt.Errorf("reading the intent that is held: %w", err)
		}
		held = before.GetPayload()
	}
	newer, err := intent.Replaces(held, signed.GetPayload())
	if err != nil || !newer {
		return false, err
	}
	b.stored.Signed, b.policy = raw, policy
	b.log.Info("intent is in force", "version", policy.Version(), "automation_off", policy.Intent().GetAutomationOff())
	return true, nil
}

// setLabels takes the cluster's labels, and over them what only the host may say.
func (b *intentBook) setLabels(cluster map[string]string) {
	labels := maps.Clone(b.own)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, cluster)
	if own := b.own[protectedLabel]; own != "" {
		labels[protectedLabel] = own
	}
	b.host.Labels = labels
}

// save replaces the file as a whole.
func (b *intentBook) save() (err error) {
	raw, err := json.Marshal(b.stored)
	if err != nil {
		return fmt.Errorf("encoding the intent: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(b.path), ".intent-*") // 0600
	if err != nil {
		return fmt.Errorf("saving the intent: %w", err)
	}
	_, err = temp.Write(raw)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), b.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("saving the intent: %w", err), os.Remove(temp.Name()))
	}
	return nil
}

// current is what judges now, and for which host.
func (b *intentBook) current() (*intent.Policy, intent.Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policy, b.host
}

// inForce is the intent itself.
func (b *intentBook) inForce() *sensorv1.Intent {
	policy, _ := b.current()
	return policy.Intent()
}
