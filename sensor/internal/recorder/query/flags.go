package query

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// Flags are a question as it is typed; what is empty limits nothing.
type Flags struct {
	Since, Until string // RFC 3339, or a duration back from now
	PID          string
	Process      string // PID.START
	Storyline    string // PID.START
	Flow         string // ADDRESS or ADDRESS:PORT, of either end
	Types        []string
	Image        string // a pattern: * is any run of characters, ? any one
	Limit        int    // most records; 0: all
	Output       string // table or jsonl
}

// question is Flags after parsing.
type question struct {
	since, until time.Time
	pid          *uint32
	process      *event.ProcessKey
	storyline    *event.ProcessKey
	flow         netip.AddrPort
	anyPort      bool
	types        []string
	image        string
	limit        uint64
	head         func([]byte) []byte
	line         func([]byte, *recorder.Record) []byte
}

// parse joins all problems, so that one run tells them all.
func (f Flags) parse(now time.Time) (*question, error) {
	q := &question{types: f.Types, image: f.Image}
	problems := []error{
		parseTime("--since", f.Since, now, &q.since),
		parseTime("--until", f.Until, now, &q.until),
		parseKey("--process", f.Process, &q.process),
		parseKey("--storyline", f.Storyline, &q.storyline),
		q.parseFlow(f.Flow),
	}
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if f.PID != "" {
		pid, err := strconv.ParseUint(f.PID, 10, 32)
		if err != nil {
			wrong("--pid %q: want a number", f.PID)
		}
		narrow := uint32(pid)
		q.pid = &narrow
	}
	if !q.since.IsZero() && !q.until.IsZero() && q.until.Before(q.since) {
		wrong("--until %s is before --since %s", f.Until, f.Since)
	}
	if f.Limit < 0 {
		wrong("--limit %d: want a number of records, 0 for all", f.Limit)
	}
	if slices.Contains(f.Types, "") {
		wrong("--type: want names with commas between them, as in exec,fork")
	}
	q.limit = uint64(max(f.Limit, 0)) //nolint:gosec // not negative
	switch f.Output {
	case "", "table":
		q.head, q.line = tableHead, tableLine
	case "jsonl":
		q.head, q.line = func(b []byte) []byte { return b }, jsonLine
	default:
		wrong("-o %q: want table or jsonl", f.Output)
	}
	return q, errors.Join(problems...)
}

func parseTime(flag, s string, now time.Time, to *time.Time) error {
	if s == "" {
		return nil
	}
	if back, err := time.ParseDuration(s); err == nil && back >= 0 {
		*to = now.Add(-back)
		return nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("%s %q: want a time such as 2026-05-01T12:00:00Z, or how long ago, such as 10m or 36h", flag, s)
	}
	*to = at
	return nil
}

func parseKey(flag, s string, to **event.ProcessKey) error {
	if s == "" {
		return nil
	}
	pid, start, found := strings.Cut(s, ".")
	p, err := strconv.ParseUint(pid, 10, 32)
	at, err2 := strconv.ParseUint(start, 10, 64)
	if !found || err != nil || err2 != nil {
		return fmt.Errorf("%s %q: want PID.START, as findings and -o jsonl have it", flag, s)
	}
	*to = &event.ProcessKey{PID: uint32(p), Start: at}
	return nil
}

func (q *question) parseFlow(s string) error {
	if s == "" {
		return nil
	}
	if end, err := netip.ParseAddrPort(s); err == nil {
		q.flow = netip.AddrPortFrom(end.Addr().Unmap(), end.Port())
		return nil
	}
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return fmt.Errorf("--flow %q: want ADDRESS or ADDRESS:PORT, an IPv6 address with a port in brackets", s)
	}
	q.flow, q.anyPort = netip.AddrPortFrom(addr.Unmap(), 0), true
	return nil
}
