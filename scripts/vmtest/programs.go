package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
)

// programDirs are looked into also when they are not on PATH: nft and tc are root's.
var programDirs = []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"}

// libraryDirs are where the dynamic linker looks by itself on Debian and elsewhere.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// mergedLinks makes the guest's /bin what the host's is: mostly a link to /usr/bin,
// which is where a program was found first.
func (t *tree) mergedLinks() error {
	for _, dir := range slices.Concat(programDirs, libraryDirs) {
		if err := t.host(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func findProgram(name string) (string, error) {
	for _, dir := range programDirs {
		if at := path.Join(dir, name); executable(at) {
			return at, nil
		}
	}
	return exec.LookPath(name)
}

func executable(at string) bool {
	info, err := os.Stat(at)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// program puts a program of the host and the libraries that it needs into the tree.
func (t *tree) program(at string) error {
	queue := []string{at}
	seen := map[string]bool{}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		if seen[next] {
			continue
		}
		seen[next] = true
		if err := t.host(next); err != nil {
			return err
		}
		needs, err := needed(next)
		if err != nil {
			return fmt.Errorf("packing %s: %w", at, err)
		}
		queue = append(queue, needs...)
	}
	return nil
}

// needed is the interpreter of an ELF file and the libraries that it names.
func needed(at string) (paths []string, err error) {
	file, err := elf.Open(at)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			text := make([]byte, min(p.Filesz, 4096))
			if _, err := p.ReadAt(text, 0); err != nil {
				return nil, fmt.Errorf("reading the interpreter of %s: %w", at, err)
			}
			paths = append(paths, string(text[:max(len(text)-1, 0)]))
		}
	}
	names, err := file.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("reading what %s needs: %w", at, err)
	}
	for _, name := range names {
		library, ok := findLibrary(name)
		if !ok {
			return nil, fmt.Errorf("%s needs %s, which is not in %v", at, name, libraryDirs)
		}
		paths = append(paths, library)
	}
	return paths, nil
}

func findLibrary(name string) (string, bool) {
	for _, dir := range libraryDirs {
		if at := path.Join(dir, name); path.Base(name) == name {
			if _, err := os.Stat(at); err == nil {
				return at, true
			}
		}
	}
	return "", false
}
