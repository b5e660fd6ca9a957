package query

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

func (q *question) inTime(r *recorder.Record) bool {
	return (q.since.IsZero() || !r.Time.Before(q.since)) && (q.until.IsZero() || !r.Time.After(q.until))
}

func (q *question) match(r *recorder.Record) bool {
	return (len(q.types) == 0 || slices.Contains(q.types, r.Type)) &&
		(q.pid == nil || concerns(r, func(key event.ProcessKey) bool { return key.PID == *q.pid })) &&
		(q.process == nil || concerns(r, func(key event.ProcessKey) bool { return key == *q.process })) &&
		(q.storyline == nil || r.Storyline == *q.storyline) &&
		(!q.flow.IsValid() || r.Flow != nil && (q.isEnd(r.Flow.Local) || q.isEnd(r.Flow.Remote))) &&
		(q.image == "" || r.Process != nil && matchImage(q.image, r.Process.Image))
}

func (q *question) isEnd(end netip.AddrPort) bool {
	return end.Addr().Unmap() == q.flow.Addr() && (q.anyPort || end.Port() == q.flow.Port())
}

// concerns tells that a process did what is recorded, or that it was done to it: a
// fork is found by its child as well.
func concerns(r *recorder.Record, is func(event.ProcessKey) bool) bool {
	if r.Process != nil && is(r.Process.Key) {
		return true
	}
	for i := 1; i < len(r.Attrs); i++ {
		pid, start := r.Attrs[i-1], r.Attrs[i]
		name, paired := strings.CutSuffix(pid.Name, "_pid")
		if paired && start.Name == name+"_start" && pid.Uint <= 1<<32-1 && is(event.ProcessKey{PID: uint32(pid.Uint), Start: start.Uint}) {
			return true
		}
	}
	return false
}

// matchImage compares a pattern without a slash with the last part of the path.
func matchImage(pattern, image string) bool {
	if !strings.Contains(pattern, "/") {
		image = path.Base(image)
	}
	return glob(pattern, image)
}

// glob is a match of the whole: * is any run of bytes, slashes too, and ? any one.
func glob(pattern, s string) bool {
	p, at := 0, 0
	star, from := -1, 0 // the last *, and from where in s it was tried to go on
	for at < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, at
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[at]):
			p++
			at++
		case star >= 0:
			from++
			p, at = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
