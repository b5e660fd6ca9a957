package main

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed programs
var sources embed.FS

// loader is what a dynamic program's first instruction belongs to (x86-64 psABI).
const loader = "/lib64/ld-linux-x86-64.so.2"

// workshop compiles the programs when they are first needed.
type workshop struct {
	sources string
	built   string // folder
	done    map[string]error
}

func newWorkshop(dir string) (*workshop, error) {
	w := &workshop{sources: filepath.Join(dir, "sources"), built: filepath.Join(dir, "programs"), done: map[string]error{}}
	tree, err := fs.Sub(sources, "programs")
	if err != nil {
		return nil, fmt.Errorf("reading the programs' sources: %w", err)
	}
	if err := os.CopyFS(w.sources, tree); err != nil {
		return nil, fmt.Errorf("writing the programs' sources: %w", err)
	}
	return w, os.Mkdir(w.built, 0o755)
}

// program is a program's path. Static, so that it runs in any root, and at fixed
// addresses below 4 GiB, which 32-bit calls need.
func (w *workshop) program(ctx context.Context, name string) (string, error) {
	return w.build(ctx, name, name+".c", "-static", "-no-pie", "-pthread", `-DLOADER="`+loader+`"`)
}

func (w *workshop) build(ctx context.Context, name, source string, flags ...string) (string, error) {
	path := filepath.Join(w.built, name)
	err, tried := w.done[name]
	if !tried {
		args := append([]string{"-O2", "-Wall", "-Wextra", "-o", path, filepath.Join(w.sources, source)}, flags...)
		var said []byte
		if said, err = exec.CommandContext(ctx, cmp.Or(os.Getenv("CC"), "cc"), args...).CombinedOutput(); err != nil {
			err = fmt.Errorf("compiling %s: %w: %s", source, err, bytes.TrimSpace(said))
		}
		w.done[name] = err
	}
	return path, err
}

// ran builds the program that others start, and what it is called beside that.
func (w *workshop) ran(ctx context.Context) (string, error) {
	path, err := w.program(ctx, "ran")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"ran-a", "ran-b"} {
		if _, err := w.build(ctx, name, "ran.c", "-static"); err != nil {
			return "", err
		}
	}
	_, err = w.build(ctx, "ran-dynamic", "ran.c")
	return path, err
}
