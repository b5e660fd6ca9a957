package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vedette-edr/vedette/coordinator/client"
)

// TestMain lets the scripts run the real program: its streams, its signals, its exit code.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vedette": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		a := newApp(os.Stdin, os.Stdout, os.Stderr)
		if os.Getenv("TEST_NOW") != "" {
			a.now = func() time.Time { return epoch.Add(10 * time.Minute) }
		}
		os.Exit(a.run(ctx, os.Args[1:]))
	}})
}

type ctxKey int

// Ensure every command says what it should, where it should, and ends as it should.
// UPDATE=1 writes the goldens anew.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("UPDATE") != "",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			f, _ := start(env.T().(testing.TB), env.WorkDir)
			env.Values[ctxKey(0)] = f
			env.Setenv("TEST_NOW", "1")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/config")
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
			env.Setenv("VEDETTE_CONTEXT_FILE", env.WorkDir+"/admin.context.yaml")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// mode NAME: how the coordinator behaves from now on.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value(ctxKey(0)).(*fake)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.mode = strings.Join(args, " ")
			},
			// calls METHOD N: how often the coordinator was asked.
			"calls": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value(ctxKey(0)).(*fake)
				f.mu.Lock()
				defer f.mu.Unlock()
				if got := strconv.Itoa(f.calls[args[0]]); got != args[1] {
					ts.Fatalf("%s was called %s times, want %s", args[0], got, args[1])
				}
			},
			// code N COMMAND...: the command ends with exactly that exit code.
			"code": code,
			// harmless: nothing in stdout or stderr can drive a terminal.
			"harmless": harmless,
			// isjson, isjsonl: stdout is one document, or one a line.
			"isjson": func(ts *testscript.TestScript, _ bool, _ []string) {
				if !json.Valid([]byte(ts.ReadFile("stdout"))) {
					ts.Fatalf("stdout is no JSON document")
				}
			},
			"isjsonl": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, line := range bytes.Split(bytes.TrimSpace([]byte(ts.ReadFile("stdout"))), []byte("\n")) {
					if !json.Valid(line) {
						ts.Fatalf("no JSON document: %s", line)
					}
				}
			},
			// keys KEY...: stdout is a list of objects with exactly these keys, in order.
			"keys": keys,
			// waitsubmit N: wait until so many orders were given and their results asked for.
			"waitsubmit": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value(ctxKey(0)).(*fake)
				want, _ := strconv.Atoi(args[0])
				for deadline := time.Now().Add(10 * time.Second); ; {
					f.mu.Lock()
					done := len(f.ops) >= want && f.polls > 0
					f.mu.Unlock()
					if done {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("no order %d within 10 s", want)
					}
					<-time.After(10 * time.Millisecond)
				}
			},
			// nokey CONTEXT FILE...: none of the files has the authority's key of that context.
			"nokey": func(ts *testscript.TestScript, _ bool, args []string) {
				from, err := client.LoadContext(ts.MkAbs(args[0]), "")
				ts.Check(err)
				key := strings.Split(from.AuthorityKey, "\n")[1]
				if len(key) < 40 {
					ts.Fatalf("%s has no key", args[0])
				}
				for _, name := range args[1:] {
					if strings.Contains(ts.ReadFile(name), key) {
						ts.Fatalf("%s has the key of %s", name, args[0])
					}
				}
			},
			// testscript writes its files for everybody to read.
			"chmod600": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.Chmod(ts.MkAbs(args[0]), 0o600))
			},
		},
	})
}

func harmless(ts *testscript.TestScript, _ bool, _ []string) {
	for _, name := range []string{"stdout", "stderr"} {
		text := ts.ReadFile(name)
		if !utf8.ValidString(text) {
			ts.Fatalf("%s is not UTF-8: %q", name, text)
		}
		for _, r := range text {
			if r != '\n' && !unicode.IsPrint(r) {
				ts.Fatalf("%s has %U: %q", name, r, text)
			}
		}
	}
}

func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		// Exec's error is exec.ExitError's text: "exit status N".
		_, last, _ := strings.Cut(err.Error(), "exit status ")
		got, _ = strconv.Atoi(last)
		if got == 0 {
			ts.Fatalf("running %v: %v", args[1:], err)
		}
	}
	if want, _ := strconv.Atoi(args[0]); got != want {
		ts.Fatalf("exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

func keys(ts *testscript.TestScript, _ bool, want []string) {
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('[') {
		ts.Fatalf("stdout is no list: %v", err)
	}
	for n := 0; dec.More(); n++ {
		_, err := dec.Token()
		ts.Check(err)
		var got []string
		for dec.More() {
			key, err := dec.Token()
			ts.Check(err)
			got = append(got, key.(string))
			var value json.RawMessage
			ts.Check(dec.Decode(&value))
		}
		_, err = dec.Token()
		ts.Check(err)
		if strings.Join(got, " ") != strings.Join(want, " ") {
			ts.Fatalf("object %d has the keys\n%v, want\n%v", n, got, want)
		}
	}
}
