package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

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

func run(ctx context.Context, bin string, keep, handsOff bool) (err error) {
	l, err := lab.New(bin, home)
	if err != nil {
		return err
	}
	started := time.Now()
	n := &narrator{started: started}
	defer func() {
		n.rows = append(n.rows, figure.AtMost("the whole demo", time.Since(started).Seconds(), 180, "s", ""))
		if err != nil {
			n.rows = append(n.rows, figure.Missing("the next piece of evidence", "", "= 1", err))
		}
		err = errors.Join(err, figure.Write("out", "demo", n.rows))
	}()
	s := &story{lab: l, say: n, handsOff: handsOff}
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
