package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
)

// A message is the program's words with those of others in them: a host's name, a
// sensor's answer, what a node says. Only the program's own line breaks make lines;
// whoever names a host "web1\nvedette: released" must not write a line of ours.

// say writes one message for a person to stderr.
func (a *app) say(format string, args ...any) {
	foreign(args)
	a.lines(fmt.Sprintf(format, args...))
}

// lines writes a text of which every line break is the program's own.
func (a *app) lines(text string) {
	for _, line := range strings.Split(text, "\n") {
		_, _ = fmt.Fprintln(a.stderr, output.Safe(line)) // nowhere is left to say that stderr is gone
	}
}

// own is a text of the program's whose line breaks are meant.
type own string

// foreign makes arguments of a format print on one line. They are changed in place,
// so that vet still knows the caller for one that formats.
func foreign(args []any) {
	for i, arg := range args {
		switch arg := arg.(type) {
		case own, *coded:
		case error:
			args[i] = foreignError{arg}
		case string, []byte, []string, fmt.Stringer:
			args[i] = foreignText{arg}
		}
	}
}

// foreignText is an argument that prints as it would, but escaped.
type foreignText struct{ value any }

// Format implements fmt.Formatter.
func (t foreignText) Format(f fmt.State, verb rune) {
	_, _ = io.WriteString(f, output.Safe(fmt.Sprintf(fmt.FormatString(f, verb), t.value)))
}

// foreignError is the same of an error, which stays the error that it is.
type foreignError struct{ error }

func (e foreignError) Unwrap() error { return e.error }

// Error is the escaped text.
func (e foreignError) Error() string { return errorText(e.error) }

// Format implements fmt.Formatter.
func (e foreignError) Format(f fmt.State, verb rune) {
	if verb == 'v' || verb == 's' {
		_, _ = io.WriteString(f, e.Error())
		return
	}
	foreignText{e.error}.Format(f, verb)
}

// errorText is an error's text, escaped but for the line breaks that are the program's:
// those of a message of its own, and between errors that were joined.
func errorText(err error) string {
	text := err.Error()
	var parts []error
	switch inner := err.(type) { //nolint:errorlint // its own layer is meant, not what it wraps
	case *coded, foreignError:
		return text
	case interface{ Unwrap() error }:
		parts = []error{inner.Unwrap()}
	case interface{ Unwrap() []error }:
		parts = inner.Unwrap()
	}
	between := output.Safe
	if joined(text, parts) {
		between = func(s string) string { return s }
	}
	var out strings.Builder
	for _, part := range parts {
		if part == nil {
			continue
		}
		before, after, found := strings.Cut(text, part.Error())
		if !found || part.Error() == "" {
			continue
		}
		out.WriteString(between(before) + errorText(part))
		text = after
	}
	return out.String() + between(text)
}

// joined says whether text is what errors.Join makes of the parts.
func joined(text string, parts []error) bool {
	all := make([]string, 0, len(parts))
	for _, part := range parts {
		if part != nil {
			all = append(all, part.Error())
		}
	}
	return len(all) > 1 && text == strings.Join(all, "\n")
}
