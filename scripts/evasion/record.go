package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// who names a process: its PID in the first namespace and its start in clock ticks
// since boot, which is as exactly as /proc tells it.
type who uint64

const (
	pidBits  = 22       // PID_MAX_LIMIT
	tickNano = 10000000 // of USER_HZ, which is 100
)

func newWho(pid uint32, ticks uint64) who { return who(ticks<<pidBits | uint64(pid)) }

// whoAt takes the start in nanoseconds, as sensors tell it.
func whoAt(pid uint32, start uint64) who { return newWho(pid, start/tickNano) }

func (w who) String() string {
	return fmt.Sprintf("%d@%d", uint64(w)&(1<<pidBits-1), uint64(w)>>pidBits)
}

// truth is one line of a program: what the kernel says was done.
type truth struct {
	PID         uint32   `json:"pid"`
	Start       uint64   `json:"start"`
	ParentPID   uint32   `json:"ppid"`
	ParentStart uint64   `json:"pstart"`
	Forked      int      `json:"forked"` // 1: this process executed nothing
	Image       string   `json:"image"`
	Device      uint64   `json:"device"` // as stat(2) has it
	Inode       uint64   `json:"inode"`
	Argv        []string `json:"argv"` // the first of them, their beginnings
	ArgvBytes   uint64   `json:"argv_bytes"`
	ArgvSum     string   `json:"argv_sum"`
	Local       uint16   `json:"local"`
	Remote      uint16   `json:"remote"`
	Target      uint32   `json:"target"`
	Name        string   `json:"name"`
}

func (t *truth) who() who    { return newWho(t.PID, t.Start) }
func (t *truth) parent() who { return newWho(t.ParentPID, t.ParentStart) }

// text is a string of the recorder's, which is {"base64": …} when it is not UTF-8.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(raw []byte) error {
	var plain string
	if len(raw) > 0 && raw[0] == '"' {
		if err := json.Unmarshal(raw, &plain); err != nil {
			return err
		}
		*t = text(plain)
		return nil
	}
	var coded struct {
		Base64 []byte `json:"base64"`
	}
	if err := json.Unmarshal(raw, &coded); err != nil {
		return fmt.Errorf("reading a text: %w", err)
	}
	*t = text(coded.Base64)
	return nil
}

// Types of records.
const (
	typeExec      = "exec"
	typeFork      = "fork"
	typeExit      = "exit"
	typeFlowOpen  = "flow-open"
	typeDNS       = "dns"
	typeFile      = "file"
	typePrivilege = "privilege"
)

// Operations on files.
const (
	opWrite   = "write" // opened for writing
	opMapExec = "map-exec"
)

// record is what "vedette-sensor recorder query -o jsonl" prints of one event.
type record struct {
	Type    string `json:"type"`
	BootNS  uint64 `json:"boot_ns"`
	Process struct {
		PID           uint32 `json:"pid"`
		Start         uint64 `json:"start"`
		ParentPID     uint32 `json:"parent_pid"`
		ParentStart   uint64 `json:"parent_start"`
		Image         text   `json:"image"`
		Script        text   `json:"script"`
		Argv          []text `json:"argv"`
		ArgvBytes     uint64 `json:"argv_bytes"`
		ArgvTruncated bool   `json:"argv_truncated"`
		SHA256        string `json:"sha256"`
		Traits        []text `json:"traits"`
	} `json:"process"`
	Flow *struct {
		Direction string         `json:"direction"`
		Local     netip.AddrPort `json:"local"`
		Remote    netip.AddrPort `json:"remote"`
	} `json:"flow"`
	ChildPID   uint32 `json:"child_pid"`
	ChildStart uint64 `json:"child_start"`
	TargetPID  uint32 `json:"target_pid"`
	Device     uint64 `json:"device"` // the kernel's dev_t
	Inode      uint64 `json:"inode"`
	Op         string `json:"op"`
	Path       text   `json:"path"`
	Query      text   `json:"query"`
	Response   bool   `json:"response"`
	Transport  string `json:"transport"`
	// ArgvHash is of all arguments, a number or a text; 0: they could not all be read.
	ArgvHash json.RawMessage `json:"argv_hash"`
}

func (r *record) who() who    { return whoAt(r.Process.PID, r.Process.Start) }
func (r *record) parent() who { return whoAt(r.Process.ParentPID, r.Process.ParentStart) }
func (r *record) child() who  { return whoAt(r.ChildPID, r.ChildStart) }

// argv is the arguments as the truth has them.
func (r *record) argv() []string {
	all := make([]string, len(r.Process.Argv))
	for i, a := range r.Process.Argv {
		all[i] = string(a)
	}
	return all
}

// argvHash is "" when there is none.
func (r *record) argvHash() string {
	switch hash := strings.Trim(string(r.ArgvHash), `"`); hash {
	case "0", "null":
		return ""
	default:
		return hash
	}
}

func (r *record) hasTrait(name text) bool {
	for _, t := range r.Process.Traits {
		if t == name {
			return true
		}
	}
	return false
}

// outboundPorts are the ends of a flow that this host began.
func (r *record) outboundPorts() (local, remote uint16, ok bool) {
	if r.Flow == nil || r.Flow.Direction != "out" {
		return 0, 0, false
	}
	return r.Flow.Local.Port(), r.Flow.Remote.Port(), true
}
