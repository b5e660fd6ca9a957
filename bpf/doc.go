// Package bpf is the sensor's part inside the kernel: its source in C, and the
// objects that clang made of it, embedded so that a build of the sensor needs no
// compiler for it: one that sees, and one that cuts.
//
// Invariant: each object is what `go generate` makes of the source, byte for byte;
// what depends on the running kernel is decided when it is loaded, never here.
// DESIGN.md lists the hooks, the maps and their bounds.
package bpf

// The flags: -mcpu=v3 is the newest instruction set of every kernel that is
// claimed; the folder is mapped away so that the object is the same everywhere.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -no-global-types -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror" Vedette src/vedette.bpf.c -- -Iinclude
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -no-global-types -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror" Cut src/cut.bpf.c -- -Iinclude
