// Package decode turns the bytes of a ring record into an event.
package decode

import (
	"errors"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// ErrMalformed: the bytes are not a record of this version of the programs.
var ErrMalformed = errors.New("malformed kernel record")

// Decode reads one record.
func Decode(raw []byte) (event.Event, error) { return nil, ErrMalformed }
