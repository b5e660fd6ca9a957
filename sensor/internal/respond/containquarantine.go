package respond

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/file"
)

// addFile brings the quarantine of files.
func (c *containments) addFile() {
	store := file.Open(file.Config{
		Dir: filepath.Join(c.r.cfg.StateDir, "quarantine"), Root: c.cfg.Root, Own: c.cfg.Own, Proc: c.cfg.Process.Proc,
	})
	entry := func(one *containment) (*file.Entry, error) {
		if len(one.State) == 0 {
			return nil, nil
		}
		e := new(file.Entry)
		return e, one.recall(e)
	}
	c.remedies[sensorv1.Action_ACTION_QUARANTINE_FILE] = &remedy{
		check: func(_ context.Context, t *sensorv1.Target) (string, error) {
			if len(t.GetPath()) == 0 {
				return "", fmt.Errorf("%w: name a path", ErrNoTarget)
			}
			return store.Check(t.GetPath())
		},
		apply: func(_ context.Context, one *containment, save func()) (string, error) {
			begun, err := entry(one)
			if err != nil {
				return "", err
			}
			e, err := store.Take(one.ID, one.target().GetPath(), begun, func(e file.Entry) { one.remember(e); save() })
			if err != nil {
				return "", err
			}
			return e.String(), nil
		},
		undo: func(_ context.Context, one *containment) (string, error) {
			e, err := entry(one)
			if err != nil || e == nil {
				return "", err
			}
			switch err := store.PutBack(one.ID, *e); {
			case errors.Is(err, file.ErrLost):
				return err.Error(), nil
			case err != nil:
				return "", err
			}
			return fmt.Sprintf("%q is back with mode %04o", e.Path, e.Mode), nil
		},
		forget: func(one *containment) { store.Forget(one.ID) },
		recover: func() []*containment {
			var found []*containment
			for id, e := range store.Held() {
				one := &containment{ID: id}
				one.remember(e)
				one.Target, _ = proto.MarshalOptions{Deterministic: true}.Marshal(&sensorv1.Target{Path: e.Path})
				found = append(found, one)
			}
			return found
		},
	}
}
