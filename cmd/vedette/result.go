package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
)

// result is what an action did at one host.
type result struct {
	Host         string     `json:"host"`
	Name         string     `json:"name"`
	Action       string     `json:"action"`
	Result       string     `json:"result"`
	Detail       string     `json:"detail"`
	Operation    string     `json:"operation"`
	AppliedAt    shape.Time `json:"applied_at"`
	LeaseExpires shape.Time `json:"lease_expires"`
	SelfTest     string     `json:"self_test"`
}

func stamp(ns int64) shape.Time { return shape.Time(ns) }

func printResults(s *session, results []result) error {
	_, err := output.Print(s.Printer, output.List[result]{
		Name:  func(r result) string { return r.Host },
		Value: func(r result) any { return r },
		Columns: []output.Column[result]{
			{Head: "HOST", Cell: func(r result) string { return r.Host }},
			{Head: "NAME", Max: 32, Cell: func(r result) string { return r.Name }},
			{Head: "RESULT", Cell: func(r result) string { return r.Result }, Paint: resultColour},
			{Head: "UNTIL", Cell: func(r result) string { return clock(int64(r.LeaseExpires)) }},
			{Head: "DETAIL", Cell: func(r result) string { return r.Detail }},
			{Head: "SELF TEST", Wide: true, Cell: func(r result) string { return r.SelfTest }},
		},
	}, output.Rows(results))
	return err
}

func resultColour(r result) output.Colour {
	switch r.Result {
	case "applied", "previewed":
		return output.Green
	case "pending", "dry-run":
		return output.Yellow
	default:
		return output.Red
	}
}

// maxAnswer is more than any answer that is accepted.
const maxAnswer = 256

// ask puts a question to the person at the terminal and goes on only when the answer
// is want. Whoever answers nothing, or is interrupted, has not agreed.
func ask(ctx context.Context, tty *os.File, question, want string) error {
	if _, err := fmt.Fprint(tty, output.Safe(question)); err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	type reply struct {
		line string
		err  error
	}
	// The read cannot be interrupted; the process ends with it still waiting.
	got := make(chan reply, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(tty, maxAnswer)).ReadString('\n')
		got <- reply{line, err}
	}()
	select {
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return exit(exitTimeout, "no answer in time; nothing was done")
		}
		return exit(exitInterrupted, "nothing was done")
	case r := <-got:
		if r.err != nil && !errors.Is(r.err, io.EOF) {
			return fmt.Errorf("reading the answer: %w", r.err)
		}
		if answer := strings.TrimSpace(r.line); answer != want {
			return exit(exitError, "the answer %q is not %q; nothing was done", answer, want)
		}
		return nil
	}
}
