// Package drive makes events: a small C program, built when it is needed, that runs
// programs, connects, looks names up and opens files as often and as fast as it is
// told, and counts what it did.
//
// Invariant: what it says that it did is exact, because what a sensor counts is held
// against it.
package drive

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

//go:embed src
var sources embed.FS

// Driver is the program, built.
type Driver struct {
	Path string
	Tiny string // a static program of three instructions
}

// Done is what the driver did.
type Done struct {
	Ops         uint64 `json:"ops"`
	Spawns      uint64 `json:"spawns"`
	Connections uint64 `json:"connections"`
	Lookups     uint64 `json:"lookups"`
	Opens       uint64 `json:"opens"`
	Datagrams   uint64 `json:"datagrams"`
	Markers     uint64 `json:"markers"`
	NS          int64  `json:"ns"`
}

// Took is how long it did it.
func (d Done) Took() time.Duration { return time.Duration(d.NS) }

// ErrNoCompiler is returned by Build where there is no C compiler.
var ErrNoCompiler = errors.New("no C compiler: install gcc, or set CC")

// Build builds the driver and the tiny program into dir.
func Build(ctx context.Context, dir string) (*Driver, error) {
	compiler := os.Getenv("CC")
	for _, name := range []string{"gcc", "cc", "clang"} {
		if compiler == "" {
			compiler, _ = exec.LookPath(name)
		}
	}
	if compiler == "" {
		return nil, ErrNoCompiler
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the driver's folder: %w", err)
	}
	d := &Driver{Path: filepath.Join(dir, "drive"), Tiny: filepath.Join(dir, "tiny")}
	for _, b := range []struct {
		out, source string
		flags       []string
	}{
		{d.Path, "drive.c", []string{"-pthread"}},
		{d.Tiny, "tiny.c", []string{"-nostdlib", "-static"}},
	} {
		text, err := sources.ReadFile("src/" + b.source)
		if err != nil {
			return nil, fmt.Errorf("reading the driver's source: %w", err)
		}
		source := filepath.Join(dir, b.source)
		if err := os.WriteFile(source, text, 0o600); err != nil {
			return nil, fmt.Errorf("writing the driver's source: %w", err)
		}
		args := append([]string{"-O2", "-Wall", "-Werror", "-o", b.out, source}, b.flags...)
		if out, err := exec.CommandContext(ctx, compiler, args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w: %s", b.source, err, out)
		}
	}
	return d, nil
}

// Repeat is the command that does one kind, "spawn" or "open" of a path, or "connect",
// n times; rate 0 is as fast as it goes.
func (d *Driver) Repeat(ctx context.Context, kind, path string, n, rate int) *exec.Cmd {
	if path == "" {
		path = "-"
	}
	return d.Command(ctx, kind, path, strconv.Itoa(n), strconv.Itoa(rate))
}

// Command is the driver with arguments as its usage says.
func (d *Driver) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, d.Path, args...)
}

// Parse reads what the driver printed.
func Parse(out []byte) (done Done, err error) {
	if err := json.Unmarshal(out, &done); err != nil {
		return done, fmt.Errorf("reading what the driver says (%q): %w", out, err)
	}
	return done, nil
}
