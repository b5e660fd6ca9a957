package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/state/statetest"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxFuzzed bounds the commands of one input: what they do to each other shows with few.
const maxFuzzed = 8

// fuzzed are the commands in an input, each behind its length; what is no command is passed over,
// and so is what never comes to a log: a batch that ends its session, a command of a later release.
func fuzzed(raw []byte) (out []*raftv1.Command) {
	for len(raw) > 0 && len(out) < maxFuzzed {
		body, n := protowire.ConsumeBytes(raw)
		if n < 0 {
			break
		}
		raw = raw[n:]
		cmd := &raftv1.Command{}
		if proto.Unmarshal(body, cmd) != nil || cmd.GetBody() == nil {
			continue
		}
		taken := true
		for _, b := range cmd.GetIngest().GetBatches() {
			taken = taken && state.CheckBatch(b.GetBatch()) == nil
		}
		if taken {
			out = append(out, cmd)
		}
	}
	return out
}

func encoded(t testing.TB, commands ...*raftv1.Command) (raw []byte) {
	t.Helper()
	for _, cmd := range commands {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		raw = protowire.AppendBytes(raw, body)
	}
	return raw
}

// FuzzCommand applies any commands to two nodes that have one of each kind: whatever they say is
// applied or rejected, never an error, at which every node would stop, and both nodes then hold the same.
func FuzzCommand(f *testing.F) {
	all := statetest.Every("c-1", "h")
	for i := range all {
		f.Add(encoded(f, all[i:min(i+2, len(all))]...)) // of each kind, and after it what may need it
	}
	draw := rapid.SliceOfN(rapid.Custom(drawCommand), 3, maxFuzzed)
	for i := range 8 {
		f.Add(encoded(f, draw.Example(i)...))
	}
	base := filepath.Join(f.TempDir(), "base.db")
	fill := openFuzzed(f, base)
	for i, cmd := range all[:len(all)-len(all)/5] { // before what ends things
		if _, err := apply(fill, uint64(i+1), cmd); err != nil {
			f.Fatal(err)
		}
	}
	index := fill.AppliedIndex()
	if err := fill.Close(); err != nil {
		f.Fatal(err)
	}
	state0, err := os.ReadFile(base)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		commands := fuzzed(raw)
		if len(commands) == 0 {
			return
		}
		dir := t.TempDir()
		var results [2][]*raftv1.Result
		var digests [2]string
		for node := range digests {
			path := filepath.Join(dir, fmt.Sprint(node, ".db"))
			if err := os.WriteFile(path, state0, 0o600); err != nil {
				t.Fatal(err)
			}
			db := openFuzzed(t, path)
			for i, cmd := range commands {
				result, err := apply(db, index+uint64(i)+1, cmd)
				if err != nil && !errors.Is(err, state.ErrNewerCommand) {
					t.Errorf("every node would stop at %s: %v", kindOf(cmd), err)
				}
				results[node] = append(results[node], result)
			}
			digest, err := db.Digest(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			digests[node] = digest
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if digests[0] != digests[1] {
			t.Errorf("two nodes differ after %v", commands)
		}
		for i := range results[0] {
			if !proto.Equal(results[0][i], results[1][i]) {
				t.Errorf("%s: one node answers %v, the other %v", kindOf(commands[i]), results[0][i], results[1][i])
			}
		}
	})
}

func openFuzzed(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), path, nil)
	if err != nil {
		t.Fatalf("opening store: %v", err)
	}
	return db
}
