package main

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// A shell waits for completions with a person before it: better none than late.
const (
	completeWithin = 2 * time.Second
	completeMost   = 200
	// maxPage is more than a client asks for at once.
	maxPage = 1000
)

// completions offers the words that rows yields and that begin with prefix.
func (a *app) completions(prefix string, rows func(context.Context, *session, func(string))) ([]string, cobra.ShellCompDirective) {
	s, err := a.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
	defer cancel()
	var words []string
	rows(ctx, s, func(word string) {
		if word != "" && strings.HasPrefix(word, prefix) && len(words) < completeMost {
			words = append(words, output.Safe(word))
		}
	})
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeHosts(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completions(prefix, func(ctx context.Context, s *session, add func(string)) {
		for h, err := range s.api.Hosts(ctx, nil, 0) {
			if err != nil {
				return
			}
			add(first(h.GetName(), h.GetId()))
		}
	})
}

func (a *app) completeIncidents(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completions(prefix, func(ctx context.Context, s *session, add func(string)) {
		for i, err := range s.api.Incidents(ctx, &operatorv1.ListIncidentsRequest{Status: "open"}) {
			if err != nil {
				return
			}
			add(i.GetId())
		}
	})
}

func (a *app) completeHostFlag(c *cobra.Command) {
	if err := c.RegisterFlagCompletionFunc("host", a.completeHosts); err != nil {
		panic(err) // the flag is not defined: a mistake in this program
	}
}

// completeFiles leaves it to the shell, which knows files.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// instant reads a time given as how long ago, or as RFC 3339; "" is 0.
func (a *app) instant(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return a.now().Add(-d).UnixNano(), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, usage("%q is neither a duration such as 90m nor a time such as 2026-01-31T09:00:00Z", s)
	}
	return at.UnixNano(), nil
}

// limitFlag is every list's: a list is whole unless somebody says otherwise.
func limitFlag(c *cobra.Command, limit *int) {
	c.Flags().IntVar(limit, "limit", 0, "at most so many, 0 for all")
}

// page is how many rows a list of at most limit should ask for at once; 0 lets the client choose.
func page(limit int) uint32 {
	if limit < 0 || limit > maxPage {
		return 0
	}
	return uint32(limit)
}

// head is the first n of rows; all of them when n is 0.
func head[T any](rows iter.Seq2[T, error], n int) iter.Seq2[T, error] {
	if n <= 0 {
		return rows
	}
	return func(yield func(T, error) bool) {
		left := n
		for row, err := range rows {
			if !yield(row, err) {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}
