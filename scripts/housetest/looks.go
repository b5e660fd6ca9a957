package housetest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	maxLines     = 500
	maxMainLines = 80
	maxMethods   = 4
)

// vagueNames say nothing about what is inside, so everything ends up there.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "types", "pkg", "misc", "shared", "lib", "base"}

var leftover = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func checkLooks(files []file) []string {
	var problems []string
	for _, f := range files {
		problems = append(problems, checkProgram(f)...)
		problems = append(problems, checkSize(f)...)
		problems = append(problems, checkText(f)...)
		if f.isGo() && !f.isGenerated() {
			problems = append(problems, checkSyntax(f)...)
		}
	}
	return append(problems, checkPackages(files)...)
}

// elf is how a program begins.
const elf = "\x7fELF"

// checkProgram: what `go build` leaves at the root is nobody's to commit, and ignored by git.
func checkProgram(f file) []string {
	object := f.dir() == "bpf" && path.Ext(f.path) == ".o"
	built := f.dir() == "." && strings.HasPrefix(f.path, "vedette")
	if object || built || !bytes.HasPrefix(f.source, []byte(elf)) {
		return nil
	}
	return []string{fmt.Sprintf("%s is a built program: remove it, make builds into bin/\n\twhy: nobody can review it, and whoever clones the tree carries it for ever", f.path)}
}

func checkSize(f file) []string {
	if f.isGenerated() {
		return nil
	}
	var problems []string
	if n := f.lines(); n > maxLines {
		problems = append(problems, fmt.Sprintf("%s has %d lines, at most %d: split it by idea\n\twhy: a file that does not fit in a head is reviewed by nobody", f.path, n, maxLines))
	}
	if n := f.lines(); path.Base(f.path) == "main.go" && n >= maxMainLines {
		problems = append(problems, fmt.Sprintf("%s has %d lines, fewer than %d: flags → Config → Run\n\twhy: what is in main cannot be tested", f.path, n, maxMainLines))
	}
	return problems
}

func checkText(f file) []string {
	var problems []string
	if ext := path.Ext(f.path); (ext == ".c" || ext == ".h") && !bytes.Contains(firstLines(f.source, 2), []byte("SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause")) {
		problems = append(problems, fmt.Sprintf("%s does not begin with its SPDX line\n\twhy: the kernel loads GPL-compatible programs only, and reviewers ask first", f.path))
	}
	if !f.isGenerated() && !strings.HasPrefix(f.path, "scripts/housetest/") {
		for i, line := range strings.Split(string(f.source), "\n") {
			if word := leftover.FindString(line); word != "" {
				problems = append(problems, fmt.Sprintf("%s:%d: %s left behind\n\twhy: nobody reads it again; finish it or file an issue", f.path, i+1, word))
			}
		}
	}
	return problems
}

func firstLines(source []byte, n int) []byte {
	lines := bytes.SplitN(source, []byte("\n"), n+1)
	return bytes.Join(lines[:min(n, len(lines))], []byte("\n"))
}

func checkSyntax(f file) []string {
	var problems []string
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.CallExpr:
			problems = append(problems, checkCall(f, n)...)
		case *ast.FuncDecl:
			problems = append(problems, checkFuzz(f, n)...)
		case *ast.TypeSpec:
			if i, ok := n.Type.(*ast.InterfaceType); ok && methods(i) > maxMethods {
				problems = append(problems, fmt.Sprintf("%s: interface %s has %d methods, at most %d\n\twhy: an interface states what its consumer needs, not what a type can do", f.at(n.Pos()), n.Name.Name, methods(i), maxMethods))
			}
		}
		return true
	})
	return problems
}

// checkFuzz is for targets: scripts/fuzz.sh greps for "func FuzzX(f ", and make test runs seeds alone.
func checkFuzz(f file, fn *ast.FuncDecl) []string {
	if !f.isTest() || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") {
		return nil
	}
	if p := fn.Type.Params.List; len(p) != 1 || len(p[0].Names) != 1 || p[0].Names[0].Name != "f" {
		return []string{fmt.Sprintf("%s: %s does not call its parameter f\n\twhy: scripts/fuzz.sh finds targets by \"func FuzzX(f \"", f.at(fn.Pos()), fn.Name.Name)}
	}
	seeded := false
	ast.Inspect(fn.Body, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch fun := call.Fun.(type) {
		case *ast.SelectorExpr:
			x, ok := fun.X.(*ast.Ident)
			seeded = seeded || ok && x.Name == "f" && fun.Sel.Name == "Add"
		case *ast.Ident:
			seeded = seeded || strings.HasPrefix(fun.Name, "seed")
		}
		return true
	})
	if !seeded {
		return []string{fmt.Sprintf("%s: %s has no seeds (f.Add, or a function seedX)\n\twhy: make test runs a target over its seeds and nothing else", f.at(fn.Pos()), fn.Name.Name)}
	}
	return nil
}

func checkCall(f file, call *ast.CallExpr) []string {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	receiver, ok := selector.X.(*ast.Ident)
	if !ok {
		return nil
	}
	switch name := receiver.Name + "." + selector.Sel.Name; name {
	case "time.Sleep":
		if f.isTest() {
			return []string{fmt.Sprintf("%s: time.Sleep in a test\n\twhy: it is too short on a slow machine and too long on every other; poll with a deadline, wait on a channel or use testing/synctest", f.at(call.Pos()))}
		}
	case "fmt.Errorf", "errors.New":
		if text := firstText(call); strings.HasPrefix(text, "failed to ") || strings.HasPrefix(text, "unable to ") || strings.HasPrefix(text, "error ") {
			return []string{fmt.Sprintf("%s: error text %q: say what was being done (\"opening ring buffer: %%w\")\n\twhy: every error is a failure; chained gerunds read as a path", f.at(call.Pos()), text)}
		}
	}
	return nil
}

func firstText(call *ast.CallExpr) string {
	if len(call.Args) == 0 {
		return ""
	}
	literal, ok := call.Args[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return ""
	}
	return strings.Trim(literal.Value, "`\"")
}

func methods(i *ast.InterfaceType) int {
	n := 0
	for _, field := range i.Methods.List {
		if _, ok := field.Type.(*ast.FuncType); ok {
			n++
		}
	}
	return n
}

func checkPackages(files []file) []string {
	documented := map[string]bool{}
	var problems []string
	for _, f := range files {
		if !f.isGo() {
			continue
		}
		dir := f.dir()
		if _, seen := documented[dir]; !seen {
			for element := range strings.SplitSeq(dir, "/") {
				if slices.Contains(vagueNames, element) {
					problems = append(problems, fmt.Sprintf("%s: a folder called %q\n\twhy: such a name says nothing about what is inside, so everything ends up there", dir, element))
				}
			}
		}
		// Generated packages take their comment from the .proto file; a package that
		// is only tests needs none.
		documented[dir] = documented[dir] || f.isTest() && !hasSource(files, dir) || f.isGenerated() ||
			!f.isTest() && f.syntax.Doc != nil && len(f.syntax.Doc.Text()) > 0
	}
	for dir, ok := range documented {
		if !ok {
			problems = append(problems, fmt.Sprintf("%s has no package comment\n\twhy: a package is one idea and one invariant, and this is where both are said", dir))
		}
	}
	slices.Sort(problems)
	return problems
}

func hasSource(files []file, dir string) bool {
	return slices.ContainsFunc(files, func(f file) bool {
		return f.isGo() && !f.isTest() && f.dir() == dir
	})
}
