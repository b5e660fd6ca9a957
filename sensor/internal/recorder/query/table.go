package query

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// millis is RFC 3339 in UTC to the millisecond: as wide in every line.
const millis = "2006-01-02T15:04:05.000Z"

const columns = "%-24s  %-12s  %7s  %-9s  %s"

func tableHead(b []byte) []byte {
	return append(fmt.Appendf(b, columns, "TIME", "TYPE", "PID", "USER", "WHAT"), '\n')
}

// tableLine appends a record as a line. Columns do not wait for wider ones to come:
// the answer is streamed.
func tableLine(b []byte, r *recorder.Record) []byte {
	pid, user := "-", "-"
	if p := r.Process; p != nil {
		pid = fmt.Sprint(p.Key.PID)
		switch {
		case !p.Described:
		case p.User != "":
			user = safe(p.User)
		default:
			user = fmt.Sprint(p.UID)
		}
	}
	b = fmt.Appendf(b, columns, r.Time.UTC().Format(millis), safe(r.Type), pid, user, what(r))
	return append(bytes.TrimRight(b, " "), '\n')
}

// what tells in one line who did what: the command of an exec, of others the
// image, then the flow, then what else the event has to say.
func what(r *recorder.Record) string {
	var words []string
	if p := r.Process; p != nil && p.Described {
		if r.Type == "exec" {
			words = append(words, command(p))
		} else {
			words = append(words, safe(p.Image))
		}
		if len(p.Traits) > 0 && r.Type == "exec" {
			words = append(words, "["+safe(strings.Join(p.Traits, " "))+"]")
		}
	}
	if r.Flow != nil {
		words = append(words, flow(r.Flow))
	}
	for i := range r.Attrs {
		if a := &r.Attrs[i]; !forPrograms[a.Name] && !strings.HasSuffix(a.Name, "_start") {
			words = append(words, attribute(a))
		}
	}
	return strings.Join(words, "  ")
}

// forPrograms are attributes that tell a person at a terminal nothing.
var forPrograms = map[string]bool{
	"cookie": true, "net_ns": true, "mount_ns": true, "device": true, "inode": true, "change_time_ns": true,
	"image_bytes": true, "gid": true, "login_session": true, "old_tid": true, "query_id": true, "query_type": true,
}

func attribute(a *recorder.Attr) string {
	name := safe(a.Name)
	switch a.Kind {
	case recorder.KindUint:
		if short, ok := strings.CutSuffix(name, "_ns"); ok && a.Uint < 1<<62 {
			return short + "=" + time.Duration(a.Uint).Round(time.Microsecond).String() //nolint:gosec // checked
		}
		return fmt.Sprintf("%s=%d", name, a.Uint)
	case recorder.KindText:
		return name + "=" + quote(a.Text)
	case recorder.KindBytes:
		return fmt.Sprintf("%s=0x%x", name, a.Text)
	case recorder.KindTexts:
		words := make([]string, len(a.List))
		for i, s := range a.List {
			words[i] = quote(s)
		}
		return name + "=" + strings.Join(words, ",")
	case recorder.KindTrue:
		return name
	}
	return name + "=false"
}

func flow(f *event.Flow) string {
	arrow := "→"
	if f.Dir == event.Inbound {
		arrow = "←"
	}
	text := protocol(f.Proto) + " " + endpoint(f.Local) + " " + arrow + " " + endpoint(f.Remote)
	if f.Name != "" {
		text += " (" + safe(f.Name) + ")"
	}
	if f.BytesIn+f.BytesOut > 0 {
		text += fmt.Sprintf("  %d bytes in, %d out", f.BytesIn, f.BytesOut)
	}
	if f.Failed {
		text += "  failed"
	}
	return text
}

// command is an argument vector as a person would type it.
func command(p *recorder.Process) string {
	if len(p.Argv) == 0 {
		return safe(p.Image)
	}
	words := make([]string, len(p.Argv))
	for i, a := range p.Argv {
		words[i] = quote(a)
	}
	line := strings.Join(words, " ")
	if p.Argv[0] != p.Image {
		line = safe(p.Image) + ": " + line
	}
	if p.ArgvTruncated {
		line += fmt.Sprintf(" … (%d bytes in all)", p.ArgvBytes)
	}
	return line
}

func quote(s string) string {
	shown := safe(s)
	if shown == "" || shown != s || strings.ContainsAny(s, " '\"\\$`|&;<>()*?[]{}!#~") {
		return "'" + shown + "'"
	}
	return shown
}

// safe renders s so that a terminal prints it and does nothing else: what is not
// printable, or no text, becomes \xNN, \uNNNN or \UNNNNNNNN.
func safe(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1, r < 0x80 && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}
