// Package query answers questions to the flight recorder: which records, and how
// they are written for people and for programs.
//
// Invariant: an answer is streamed in the order of recording and remembers no more
// than the segment at hand, however much matches.
package query

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// Answer is how much was answered.
type Answer struct {
	Records uint64 // written
	Damaged uint64 // in damaged blocks: whether they match nobody can say
	Limited bool   // ended at the limit: more may match
	// Types are those recorded in the time that was asked for, in alphabetical order:
	// what to ask for when a type was misspelt.
	Types []string
}

// maxTypes bounds Types; there are about twenty.
const maxTypes = 64

// Run writes what the recorder in dir has on a question, as of now, oldest first.
func Run(ctx context.Context, dir string, flags Flags, now time.Time, out io.Writer) (Answer, error) {
	q, err := flags.parse(now)
	if err != nil {
		return Answer{}, err
	}
	var answer Answer
	seen := map[string]bool{}
	buffered := bufio.NewWriterSize(out, 64<<10)
	var line []byte
	stats, err := recorder.Read(ctx, dir, q.since, q.until, func(r *recorder.Record) error {
		if !q.inTime(r) {
			return nil
		}
		if !seen[r.Type] && len(seen) < maxTypes {
			seen[r.Type] = true
			answer.Types = append(answer.Types, r.Type)
		}
		if !q.match(r) {
			return nil
		}
		if q.limit > 0 && answer.Records == q.limit {
			answer.Limited = true
			return recorder.ErrStop
		}
		if line = line[:0]; answer.Records == 0 {
			line = q.head(line)
		}
		answer.Records++
		_, err := buffered.Write(q.line(line, r))
		return err
	})
	answer.Damaged = stats.Damaged
	slices.Sort(answer.Types)
	err = errors.Join(err, buffered.Flush())
	switch {
	case errors.Is(err, recorder.ErrNone):
		err = fmt.Errorf("%w: no sensor has run with this state folder, or its recorder is off (recorder.enabled); --state-dir or --config names another one", err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: only root may read what was recorded", err)
	}
	return answer, err
}
