package intent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// MaxFile bounds an intent file, in bytes.
const MaxFile = 2 * MaxPayload

// maxFileDepth is more than the format has, and little enough to recurse over.
const maxFileDepth = 16

// file is intent.yaml. Its keys are those of the messages.
type file struct {
	Version       uint64    `yaml:"version"`
	Reason        string    `yaml:"reason"`
	AutomationOff bool      `yaml:"automation_off"`
	VetoSeconds   uint32    `yaml:"veto_seconds"`
	LeaseSeconds  uint64    `yaml:"lease_seconds"`
	Groups        []group   `yaml:"groups"`
	Governor      *governor `yaml:"governor"`
	Jump          []opening `yaml:"jump"`
	Policy        string    `yaml:"policy"`
}

type group struct {
	Name   string            `yaml:"name"`
	Labels map[string]string `yaml:"labels"`
}

type governor struct {
	Hosts10m       uint32   `yaml:"hosts_10m"`
	Permille10m    uint32   `yaml:"permille_10m"`
	PermilleDay    uint32   `yaml:"permille_day"`
	GroupLabel     string   `yaml:"group_label"`
	Protected      []group  `yaml:"protected"`
	ProtectedHosts []string `yaml:"protected_hosts"`
}

type opening struct {
	Prefix   string `yaml:"prefix"`
	Protocol string `yaml:"protocol"`
	Port     uint32 `yaml:"port"`
	Inbound  bool   `yaml:"inbound"`
	Comment  string `yaml:"comment"`
}

// ParseFile reads intent.yaml: everything but the cluster, the author, the time and the
// chain, which applying adds. Its version is the one that it was made from; 0 when
// there was none. A key that does not exist is an error. ParseFile does not judge the
// content: Check does.
func ParseFile(raw []byte) (in *sensorv1.Intent, err error) {
	// The YAML library's faults must end neither a sensor nor a node.
	defer func() {
		if r := recover(); r != nil {
			in, err = nil, fmt.Errorf("reading the intent: its YAML cannot be read: %v", r)
		}
	}()
	if len(raw) > MaxFile {
		return nil, fmt.Errorf("reading the intent: it has %d bytes, at most %d", len(raw), MaxFile)
	}
	if deep(raw) {
		return nil, fmt.Errorf("reading the intent: it is nested deeper than %d, or has an alias: put texts with & and * between quotes", maxFileDepth)
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("reading the intent: it has bytes that are no UTF-8 text")
	}
	var f file
	decoder := yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict())
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the intent: %w", yamlError(err))
	}
	if err := decoder.Decode(new(file)); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading the intent: there is more than one document in the file; write one")
	}
	in = &sensorv1.Intent{
		Version: f.Version, Reason: f.Reason, AutomationOff: f.AutomationOff,
		VetoSeconds: f.VetoSeconds, LeaseSeconds: f.LeaseSeconds, Groups: groupsOf(f.Groups), Policy: f.Policy,
	}
	if g := f.Governor; g != nil {
		in.Governor = &sensorv1.Governor{
			Hosts_10M: g.Hosts10m, Permille_10M: g.Permille10m, PermilleDay: g.PermilleDay, GroupLabel: g.GroupLabel,
			Protected: groupsOf(g.Protected), ProtectedHosts: g.ProtectedHosts,
		}
	}
	for i, o := range f.Jump {
		protocol, err := protocolOf(o.Protocol)
		if err != nil {
			return nil, fmt.Errorf("reading the intent: jump %d: %w", i+1, err)
		}
		in.Jump = append(in.Jump, &sensorv1.Opening{Prefix: o.Prefix, Protocol: protocol, Port: o.Port, Inbound: o.Inbound, Comment: o.Comment})
	}
	if _, err := proto.Marshal(in); err != nil { // an escape can make what is no UTF-8
		return nil, fmt.Errorf("reading the intent: %w", err)
	}
	return in, nil
}

func yamlError(err error) error {
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) && unknown.Token != nil {
		at, key := unknown.Token.Position, unknown.Token.Value
		return fmt.Errorf("line %d: there is no key %q%s", at.Line, cut(key), meant("", nearest(key, fileKeys)))
	}
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil && syntax.GetToken().Position != nil {
		return fmt.Errorf("line %d: %s", syntax.GetToken().Position.Line, syntax.GetMessage())
	}
	return err
}

var fileKeys = []string{
	"version", "reason", "automation_off", "veto_seconds", "lease_seconds", "groups", "governor", "jump", "policy",
	"name", "labels", "hosts_10m", "permille_10m", "permille_day", "group_label", "protected", "protected_hosts",
	"prefix", "protocol", "port", "inbound", "comment",
}

// deep bounds what the YAML parser recurses into, and keeps anchors away from it: a few of
// them can stand for gigabytes. Block text below policy is indented and free.
func deep(raw []byte) bool {
	open, block, quote := 0, false, byte(0)
	for line := range bytes.Lines(raw) {
		trimmed := bytes.TrimLeft(line, " \t-")
		if len(bytes.TrimSpace(line)) == 0 || (block && len(trimmed) < len(line)) {
			continue
		}
		block = quote == 0 && bytes.HasPrefix(line, []byte("policy: |"))
		if quote == 0 && len(line)-len(trimmed) > 2*maxFileDepth {
			return true
		}
		before := byte(':') // the last character but spaces: a token begins behind these
		for i := 0; i < len(trimmed); i++ {
			c, begins := trimmed[i], strings.IndexByte(":,[{?-", before) >= 0
			switch {
			case quote == '"' && c == '\\':
				i++
			case quote != 0:
				if c == quote {
					quote = 0
				}
			case (c == '"' || c == '\'') && begins:
				quote = c
			case c == '#' && (i == 0 || trimmed[i-1] == ' ' || trimmed[i-1] == '\t'):
				i = len(trimmed)
			case c == '[' || c == '{':
				open++
			case (c == ']' || c == '}') && open > 0:
				open--
			case (c == '&' || c == '*') && begins:
				return true
			}
			if c != ' ' && c != '\t' {
				before = c
			}
		}
		if open > maxFileDepth {
			return true
		}
	}
	return false
}

func groupsOf(groups []group) []*sensorv1.Group {
	var all []*sensorv1.Group
	for _, g := range groups {
		all = append(all, &sensorv1.Group{Name: g.Name, Labels: g.Labels})
	}
	return all
}

// protocols by their names in the file; others are numbers.
var protocols = map[string]uint32{"tcp": 6, "udp": 17}

func protocolOf(text string) (uint32, error) {
	if p, ok := protocols[text]; ok {
		return p, nil
	}
	p, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("the protocol is %q; write tcp or udp", cut(text))
	}
	return uint32(p), nil
}

// Format writes what ParseFile reads back as the same intent. The cluster, author, time,
// previous and restored version are not in it.
func Format(in *sensorv1.Intent) []byte {
	var w bytes.Buffer
	if in.GetVersion() != 0 {
		fmt.Fprintf(&w, "# Made from the version in force; applying it makes the next.\nversion: %d\n", in.GetVersion())
	}
	if in.GetReason() != "" {
		fmt.Fprintf(&w, "reason: %s\n", scalar(in.GetReason()))
	}
	if in.GetAutomationOff() {
		w.WriteString("automation_off: true\n")
	}
	number(&w, "veto_seconds", uint64(in.GetVetoSeconds()))
	number(&w, "lease_seconds", in.GetLeaseSeconds())
	writeGroups(&w, "", "groups", in.GetGroups())
	if g := in.GetGovernor(); g != nil {
		w.WriteString("governor:")
		if proto.Equal(g, &sensorv1.Governor{}) {
			w.WriteString(" {}")
		}
		w.WriteString("\n")
		number(&w, "  hosts_10m", uint64(g.GetHosts_10M()))
		number(&w, "  permille_10m", uint64(g.GetPermille_10M()))
		number(&w, "  permille_day", uint64(g.GetPermilleDay()))
		if g.GetGroupLabel() != "" {
			fmt.Fprintf(&w, "  group_label: %s\n", scalar(g.GetGroupLabel()))
		}
		writeGroups(&w, "  ", "protected", g.GetProtected())
		if len(g.GetProtectedHosts()) > 0 {
			w.WriteString("  protected_hosts:\n")
		}
		for _, host := range g.GetProtectedHosts() {
			fmt.Fprintf(&w, "    - %s\n", scalar(host))
		}
	}
	if len(in.GetJump()) > 0 {
		w.WriteString("jump:\n")
	}
	for _, o := range in.GetJump() {
		fmt.Fprintf(&w, "  - prefix: %s\n    protocol: %s\n    port: %d\n", scalar(o.GetPrefix()), protocolName(o.GetProtocol()), o.GetPort())
		if o.GetInbound() {
			w.WriteString("    inbound: true\n")
		}
		if o.GetComment() != "" {
			fmt.Fprintf(&w, "    comment: %s\n", scalar(o.GetComment()))
		}
	}
	writePolicy(&w, in.GetPolicy())
	return w.Bytes()
}

func number(w *bytes.Buffer, key string, value uint64) {
	if value != 0 {
		fmt.Fprintf(w, "%s: %d\n", key, value)
	}
}

func writeGroups(w *bytes.Buffer, indent, key string, groups []*sensorv1.Group) {
	if len(groups) > 0 {
		fmt.Fprintf(w, "%s%s:\n", indent, key)
	}
	for _, g := range groups {
		fmt.Fprintf(w, "%s  - name: %s\n", indent, scalar(g.GetName()))
		if len(g.GetLabels()) > 0 {
			fmt.Fprintf(w, "%s    labels:\n", indent)
		}
		for _, key := range slices.Sorted(maps.Keys(g.GetLabels())) {
			fmt.Fprintf(w, "%s      %s: %s\n", indent, scalar(key), scalar(g.GetLabels()[key]))
		}
	}
}

func protocolName(p uint32) string {
	for _, name := range slices.Sorted(maps.Keys(protocols)) {
		if protocols[name] == p {
			return name
		}
	}
	return strconv.FormatUint(uint64(p), 10)
}

// writePolicy writes Cedar as it was typed where YAML can hold that, else as one quoted line.
func writePolicy(w *bytes.Buffer, policy string) {
	if policy == "" {
		return
	}
	if asBlock(policy) {
		w.WriteString("policy: |\n")
		for line := range strings.Lines(policy) {
			if line != "\n" {
				w.WriteString("  ")
			}
			w.WriteString(line)
		}
		return
	}
	fmt.Fprintf(w, "policy: %s\n", quoted(policy))
}

// asBlock: the text ends with one line end, begins with no space, and has no character that
// YAML changes on the way.
func asBlock(policy string) bool {
	if !strings.HasSuffix(policy, "\n") || strings.HasSuffix(policy, "\n\n") || strings.TrimLeft(policy, " \n\t") != policy {
		return false
	}
	for line := range strings.Lines(policy) {
		if line != "\n" && strings.TrimSpace(line) == "" {
			return false
		}
	}
	return !strings.ContainsFunc(policy, func(r rune) bool {
		return (r < ' ' && r != '\n' && r != '\t') || (r >= 0x7f && r < 0xa0) || r == 0xfeff || r == 0x2028 || r == 0x2029 || r == '\uFFFD' || r > 0xffff
	})
}

var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/-]*( [A-Za-z0-9][A-Za-z0-9._/-]*)*$`)

// words that YAML takes for something else than text.
var words = []string{"true", "false", "yes", "no", "on", "off", "null", "y", "n", "inf", "nan"}

func scalar(s string) string {
	if plain.MatchString(s) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	return quoted(s)
}

// quoted is s between double quotes, in YAML's escapes.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < ' ' || (r >= 0x7f && r < 0xa0):
			fmt.Fprintf(&b, `\x%02x`, r)
		case r == 0xfeff || r == 0x2028 || r == 0x2029:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
