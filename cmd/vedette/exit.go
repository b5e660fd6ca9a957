package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/vedette-edr/vedette/coordinator/client"
)

// Exit codes: part of the operator's contract.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitPartial     = 3
	exitNotFound    = 4
	exitDenied      = 5
	exitUnavailable = 6
	exitTimeout     = 7
	exitInterrupted = 130
)

// commandError marks what a command's body returned.
type commandError struct{ error }

func (e *commandError) Unwrap() error { return e.error }

// coded is an error that knows its exit code.
type coded struct {
	code int
	error
}

func (e *coded) Unwrap() error { return e.error }

// usage is a command line that makes no sense: exit code 2.
func usage(format string, args ...any) error {
	foreign(args)
	return &coded{exitUsage, fmt.Errorf(format, args...)}
}

// exit is an error with a code of its own.
func exit(code int, format string, args ...any) error {
	foreign(args)
	return &coded{code, fmt.Errorf(format, args...)}
}

// exitCode maps an error to the contract.
func exitCode(err error) int {
	var own *coded
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, client.ErrNotFound):
		return exitNotFound
	case errors.Is(err, client.ErrDenied):
		return exitDenied
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrNoLeader):
		return exitUnavailable
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.Is(err, client.ErrInvalid), errors.Is(err, client.ErrNoContext):
		return exitUsage
	default:
		return exitError
	}
}
