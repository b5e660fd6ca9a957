package query

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// reserved are the keys of every record; an attribute of such a name is told apart.
var reserved = []string{"time", "boot_ns", "boot", "type", "process", "storyline", "flow"}

// jsonLine appends a record as one object on one line. Keys stand in a fixed order,
// attributes in that of their event.
func jsonLine(b []byte, r *recorder.Record) []byte {
	b = append(b, `{"time":"`...)
	b = r.Time.AppendFormat(b, time.RFC3339Nano)
	b = strconv.AppendUint(append(b, `","boot_ns":`...), r.BootNs, 10)
	b = append(append(b, `,"boot":"`...), bootID(r.Boot)...)
	b = appendString(append(b, `","type":`...), r.Type)
	b = appendProcess(append(b, `,"process":`...), r.Process)
	b = append(b, `,"storyline":`...)
	if r.Storyline == (event.ProcessKey{}) {
		b = append(b, "null"...)
	} else {
		b = appendKey(b, r.Storyline)
	}
	b = appendFlow(append(b, `,"flow":`...), r.Flow)
	for i := range r.Attrs {
		b = appendAttr(append(b, ','), &r.Attrs[i])
	}
	return append(b, '}', '\n')
}

func bootID(id [16]byte) string {
	digits := hex.EncodeToString(id[:])
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

func appendKey(b []byte, key event.ProcessKey) []byte {
	return fmt.Appendf(b, `"%d.%d"`, key.PID, key.Start)
}

func appendProcess(b []byte, p *recorder.Process) []byte {
	if p == nil {
		return append(b, "null"...)
	}
	b = appendKey(append(b, `{"id":`...), p.Key)
	b = fmt.Appendf(b, `,"pid":%d,"start":%d`, p.Key.PID, p.Key.Start)
	if !p.Described {
		for _, key := range [...]string{
			"parent_pid", "parent_start", "image", "argv", "argv_bytes", "argv_truncated", "uid", "user", "login_uid",
			"cwd", "unit", "container", "interpreter", "script", "traits", "sha256",
		} {
			b = append(append(append(b, `,"`...), key...), `":null`...)
		}
		return append(b, '}')
	}
	b = fmt.Appendf(b, `,"parent_pid":%d,"parent_start":%d`, p.Parent.PID, p.Parent.Start)
	b = appendString(append(b, `,"image":`...), p.Image)
	b = appendStrings(append(b, `,"argv":`...), p.Argv)
	b = fmt.Appendf(b, `,"argv_bytes":%d,"argv_truncated":%t,"uid":%d`, p.ArgvBytes, p.ArgvTruncated, p.UID)
	b = appendString(append(b, `,"user":`...), p.User)
	b = fmt.Appendf(b, `,"login_uid":%d`, p.LoginUID)
	b = appendString(append(b, `,"cwd":`...), p.Cwd)
	b = appendString(append(b, `,"unit":`...), p.Unit)
	b = appendString(append(b, `,"container":`...), p.Container)
	b = appendString(append(b, `,"interpreter":`...), p.Interpreter)
	b = appendString(append(b, `,"script":`...), p.Script)
	b = appendStrings(append(b, `,"traits":`...), p.Traits)
	if p.SHA256 == "" {
		return append(b, `,"sha256":null}`...)
	}
	return append(append(append(b, `,"sha256":"`...), hex.EncodeToString([]byte(p.SHA256))...), `"}`...)
}

func appendFlow(b []byte, f *event.Flow) []byte {
	if f == nil {
		return append(b, "null"...)
	}
	b = fmt.Appendf(b, `{"protocol":%q,"direction":%q,"local":%q,"remote":%q,"name":`,
		protocol(f.Proto), direction(f.Dir), endpoint(f.Local), endpoint(f.Remote))
	b = appendString(b, f.Name)
	return fmt.Appendf(b, `,"bytes_in":%d,"bytes_out":%d,"failed":%t}`, f.BytesIn, f.BytesOut, f.Failed)
}

func protocol(proto uint8) string {
	switch proto {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(int(proto))
}

// direction in the words of vedette finding list.
func direction(d event.Direction) string {
	if d == event.Inbound {
		return "in"
	}
	return "out"
}

func endpoint(end netip.AddrPort) string {
	if !end.IsValid() {
		return ""
	}
	return netip.AddrPortFrom(end.Addr().WithZone(""), end.Port()).String()
}

func appendAttr(b []byte, a *recorder.Attr) []byte {
	name := a.Name
	if slices.Contains(reserved, name) {
		name = "event_" + name
	}
	// A name is the sensor's own and so text; a damaged one must not become an object.
	b = append(appendText(b, name), ':')
	switch a.Kind {
	case recorder.KindUint:
		return strconv.AppendUint(b, a.Uint, 10)
	case recorder.KindText:
		return appendString(b, a.Text)
	case recorder.KindBytes:
		return appendBase64(b, a.Text)
	case recorder.KindTexts:
		return appendStrings(b, a.List)
	}
	return strconv.AppendBool(b, a.Kind == recorder.KindTrue)
}

func appendStrings(b []byte, all []string) []byte {
	b = append(b, '[')
	for i, s := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

// appendString keeps every byte: what is no text becomes {"base64":"…"}.
func appendString(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		return appendBase64(b, s)
	}
	return appendText(b, s)
}

func appendBase64(b []byte, s string) []byte {
	b = base64.StdEncoding.AppendEncode(append(b, `{"base64":"`...), []byte(s))
	return append(b, `"}`...)
}

// appendText escapes, beside what JSON demands, all that a terminal would act upon.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return append(b, '"')
}
