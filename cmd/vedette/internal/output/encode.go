package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// encode is JSON that is also safe to print: encoding/json escapes the C0 controls
// only, a terminal obeys others too. They can stand in strings only, so \uNNNN is
// the same document.
func encode(v any, indent string) ([]byte, error) { return encodeIn(v, "", indent) }

// encodeIn is encode of a part of a document: all lines but the first begin with prefix.
func encodeIn(v any, prefix, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, indent)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding output: %w", err)
	}
	raw := b.Bytes()
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRune(raw[i:])
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = append(out, raw[i:i+size]...)
		case r > 0xffff:
			hi, lo := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += size
	}
	return out, nil
}

func (p *Printer) json(v any) error {
	raw, err := encode(v, "  ")
	if err != nil {
		return err
	}
	_, err = p.Out.Write(raw)
	return err
}

func (p *Printer) jsonLine(v any) error {
	raw, err := encode(v, "")
	if err != nil {
		return err
	}
	_, err = p.Out.Write(raw)
	return err
}

// yaml writes the same document as json does, with the keys in the same order:
// every scalar is JSON's, which is YAML's too.
func (p *Printer) yaml(v any) error {
	raw, err := encode(v, "")
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var b strings.Builder
	if err := yamlValue(&b, dec, "", false); err != nil {
		return fmt.Errorf("encoding output: %w", err)
	}
	_, err = io.WriteString(p.Out, strings.TrimLeft(b.String(), "\n "))
	return err
}

// yamlValue writes the next value. A scalar or an empty container follows on the
// line; the rest starts on a line of its own, or, as an item of a sequence, beside its dash.
func yamlValue(b *strings.Builder, dec *json.Decoder, indent string, item bool) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		b.WriteString(" " + scalar(tok) + "\n")
		return nil
	}
	if !dec.More() {
		b.WriteString(map[json.Delim]string{'{': " {}\n", '[': " []\n"}[open])
		_, err := dec.Token()
		return err
	}
	for first := true; dec.More(); first = false {
		lead := indent
		switch {
		case first && item:
			lead = " "
		case first:
			lead = "\n" + indent
		}
		b.WriteString(lead)
		if open == '[' {
			b.WriteString("-")
			err = yamlValue(b, dec, indent+"  ", true)
		} else {
			var key json.Token
			key, err = dec.Token()
			if err != nil {
				return err
			}
			name, isString := key.(string)
			if !isString {
				return errors.New("object key is no string")
			}
			b.WriteString(yamlKey(name) + ":")
			err = yamlValue(b, dec, indent+"  ", false)
		}
		if err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

func scalar(tok json.Token) string {
	switch v := tok.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case json.Number:
		return v.String()
	default:
		raw, err := encode(v, "")
		if err != nil {
			return `""`
		}
		return strings.TrimSuffix(string(raw), "\n")
	}
}

// yamlKey leaves the keys of our own contract bare; others (labels) may be anything.
func yamlKey(name string) string {
	bare := name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
	switch name {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		bare = false
	}
	if bare {
		return name
	}
	return scalar(name)
}
