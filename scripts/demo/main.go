// Command demo tells the whole story on one machine in under three minutes:
// three coordinator nodes and four hosts in network namespaces, a short time of
// learning, an attack that hops over real sshd, the findings, the incident, the
// isolation, the proof by packets, the release, and a clean exit.
//
// It exits with 1 when any step's evidence is missing, after removing all that
// it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// The demo's own folder: not below /tmp, where a program that connects out is a finding.
const home = "/run/vedette-demo"

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	keep := flag.Bool("keep-logs", false, "leave the logs in "+home+" at the end")
	flag.Parse()
	if flag.Arg(0) == "role" {
		if err := role(flag.Args()[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: network namespaces and eBPF need root: sudo make demo")
		os.Exit(1)
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The story takes about a minute and a half; three minutes is the promise.
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("the demo took longer than its three minutes"))
	defer cancel()
	if err := run(ctx, *bin, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// settle goes on as a copy of this program in the demo's own folder: some of what
// the demo tries is done by itself, and a clone below /tmp would make a finding
// of that.
func settle() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	stage := filepath.Join(home, "stage")
	if self == stage {
		return nil
	}
	if err := errors.Join(os.RemoveAll(home), os.MkdirAll(home, 0o700), copyProgram(self, stage, false)); err != nil {
		return fmt.Errorf("making the demo's folder: %w", err)
	}
	return syscall.Exec(stage, os.Args, os.Environ())
}

func run(ctx context.Context, bin string, keep bool) (err error) {
	l, err := lab.New(bin, home)
	if err != nil {
		return err
	}
	started := time.Now()
	n := &narrator{started: started}
	defer func() {
		rows := append(n.rows, figure.AtMost("the whole demo", time.Since(started).Seconds(), 180, "s", ""))
		if err != nil {
			rows = append(rows, figure.Missing("the next piece of evidence", "", "= 1", err))
		}
		err = errors.Join(err, figure.Write("out", "demo", rows))
	}()
	s := &story{lab: l, say: n}
	err = s.tell(ctx)
	n.part("Clean removal")
	if closing := l.Close(); closing != nil {
		err = errors.Join(err, fmt.Errorf("cleaning up: %w", closing))
	}
	if err == nil && !keep {
		err = os.RemoveAll(home)
	} else {
		fmt.Printf("  logs are in %s/logs\n", home)
	}
	if left := leftovers(); left != nil {
		err = errors.Join(err, left)
	} else {
		n.proved("no process, namespace, link, pin or filter of the demo is left")
	}
	if err == nil {
		fmt.Printf("\ndemo: passed: %d pieces of evidence in %.0f s\n", n.count, time.Since(started).Seconds())
	}
	return err
}

// narrator prints the story with the time since its start.
type narrator struct {
	started time.Time
	count   int
	rows    []figure.Row
}

func (n *narrator) part(title string) {
	fmt.Printf("\n[%5.1f s] %s\n", time.Since(n.started).Seconds(), title)
}

func (n *narrator) line(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

// proved is one piece of evidence that was looked at and held.
func (n *narrator) proved(format string, args ...any) {
	n.count++
	text := fmt.Sprintf(format, args...)
	n.rows = append(n.rows, figure.Exactly(text, 1, 1, "evidence", fmt.Sprintf("%.1f s after the start", time.Since(n.started).Seconds())))
	fmt.Println("  ✓ " + text)
}
