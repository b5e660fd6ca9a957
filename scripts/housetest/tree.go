// Package housetest holds the tree to the rules that DESIGN.md and
// CONTRIBUTING.md state: who may import whom, and how a file is allowed to look.
//
// Its one idea: a rule carries its reason, and the reason is what a person reads
// when the rule bites. Every rule is also tried against a small source that
// breaks it, so that none of them can fall asleep.
package housetest

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/vedette-edr/vedette"

// file is one source of the tree, by its path from the root with slashes.
type file struct {
	path   string
	source []byte
	syntax *ast.File // nil for what is not Go
	set    *token.FileSet
}

func newFile(name string, source []byte) (file, error) {
	f := file{path: name, source: source}
	if path.Ext(name) != ".go" {
		return f, nil
	}
	f.set = token.NewFileSet()
	syntax, err := parser.ParseFile(f.set, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, fmt.Errorf("parsing %s: %w", name, err)
	}
	f.syntax = syntax
	return f, nil
}

// readTree reads every Go, C and shell source below root, and the first bytes of all else.
// What make makes, and test data, is not source.
func readTree(root string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != root && slices.Contains([]string{".git", ".vedette", "bin", "dist", "out", "testdata"}, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		relative, err := filepath.Rel(root, name)
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		read := os.ReadFile
		if !slices.Contains([]string{".go", ".c", ".h", ".sh"}, filepath.Ext(name)) {
			read = readHead
		}
		source, err := read(name)
		if err != nil {
			return err
		}
		f, err := newFile(filepath.ToSlash(relative), source)
		files = append(files, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the tree: %w", err)
	}
	return files, nil
}

// readHead is enough to tell a program from a text.
func readHead(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, len(elf))
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:n], err
}

// dir is the package of the file as a path of the tree.
func (f file) dir() string { return path.Dir(f.path) }

func (f file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f file) isGo() bool { return f.syntax != nil }

func (f file) isGenerated() bool {
	if f.isGo() {
		return ast.IsGenerated(f.syntax)
	}
	return path.Base(f.path) == "vmlinux.h"
}

func (f file) lines() int { return bytes.Count(f.source, []byte("\n")) }

// imports are the import paths; those of this module are cut to paths of the tree
// ("sensor/internal/event"), so that rules read like DESIGN.md.
func (f file) imports() []string {
	if !f.isGo() {
		return nil
	}
	var paths []string
	for _, spec := range f.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			paths = append(paths, strings.TrimPrefix(p, module+"/"))
		}
	}
	return paths
}

// at is a position for a message.
func (f file) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.set.Position(pos).Line)
}

// within reports whether p is one of the patterns: a path, or "path/..." for it
// and all below it.
func within(p string, patterns []string) bool {
	for _, pattern := range patterns {
		base, deep := strings.CutSuffix(pattern, "/...")
		if p == base || deep && strings.HasPrefix(p, base+"/") {
			return true
		}
	}
	return false
}
