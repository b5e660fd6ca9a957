package detect

import (
	"path"
	"strconv"

	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Rules for auditd name the lines that it writes. What one event of the sensor would be
// there is several lines with one serial number; to rules it is one record, whose type has
// all of theirs. Reads of files and system calls that the sensor does not see are no
// records, and values that no record can have are refused when a rule is loaded.

// fileCalls are the calls that may have done what an event tells of.
var fileCalls = func() (calls [event.FileMapExec + 1][]string) {
	for op := range event.FileMapExec {
		calls[op] = taxonomy.FileCalls[op.String()]
	}
	return calls
}()

// auditValues are the fields that auditd's rules have for themselves.
func auditValues(n int, o *event.Observation, out []string) []string {
	p := o.Process
	switch n {
	case taxonomy.AuditUID:
		return append(out, strconv.FormatUint(uint64(p.LoginUID), 10))
	case taxonomy.AuditEUID:
		return append(out, strconv.FormatUint(uint64(o.Event.Head().UID), 10))
	case taxonomy.AuditSession:
		return append(out, strconv.FormatUint(uint64(p.SessionID), 10))
	case taxonomy.Comm:
		return commValues(o, out)
	}
	switch ev := o.Event.(type) {
	case *event.Exec:
		return auditExec(n, p, out)
	case *event.File:
		return auditFile(n, ev, out)
	case *event.FlowOpen:
		switch {
		case n == taxonomy.AuditType:
			return append(out, "SYSCALL")
		case n == taxonomy.Syscall && ev.Dir == event.Outbound:
			return append(out, "connect")
		case n == taxonomy.Syscall:
			return append(out, "accept")
		case n == taxonomy.AuditSuccess:
			return append(out, yesOrNo(!ev.Failed))
		case n == taxonomy.AuditKey && ev.Dir == event.Outbound && !ev.Failed && ev.Remote.Addr().Unmap().Is4():
			return append(out, taxonomy.KeyConnect4)
		}
	case *event.Privilege:
		switch {
		case n == taxonomy.AuditType:
			return append(out, "SYSCALL")
		case n == taxonomy.Syscall && ev.Call != "":
			return append(out, ev.Call)
		case n == taxonomy.AuditSuccess:
			return append(out, yesOrNo(ev.ErrorName() == ""))
		}
	}
	return out
}

// commLength is TASK_COMM_LEN without the end.
const commLength = 15

// commValues is what the kernel would call the process. The name that led to the image is
// not in the kernel's key of an exec, but argv[0] is, which mostly is that name.
func commValues(o *event.Observation, out []string) []string {
	cut := func(name string) string { name = path.Base(name); return name[:min(len(name), commLength)] }
	p := o.Process
	if p.Image != "" {
		out = append(out, cut(p.Image))
	}
	if _, exec := o.Event.(*event.Exec); exec && len(p.Argv) > 0 && p.Argv[0] != "" {
		if name := cut(p.Argv[0]); len(out) == 0 || out[0] != name {
			out = append(out, name)
		}
	}
	return out
}

func auditExec(n int, p *event.Process, out []string) []string {
	switch n {
	case taxonomy.AuditType:
		return append(out, "SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE")
	case taxonomy.Syscall:
		return append(out, "execve")
	case taxonomy.AuditSuccess:
		return append(out, "yes")
	case taxonomy.AuditNameType:
		return append(out, "NORMAL")
	case taxonomy.Argc:
		if !p.ArgvTruncated {
			return append(out, strconv.Itoa(len(p.Argv)))
		}
	case taxonomy.AuditName:
		for _, name := range []string{p.Image, p.Script} {
			if name != "" {
				out = append(out, name)
			}
		}
	default:
		if i := n - taxonomy.A0; i >= 0 && i < taxonomy.MaxAuditArgs && i < len(p.Argv) {
			return append(out, p.Argv[i])
		}
	}
	return out
}

func auditFile(n int, ev *event.File, out []string) []string {
	switch n {
	case taxonomy.AuditType:
		return append(out, "SYSCALL", "PATH")
	case taxonomy.Syscall:
		return append(out, fileCalls[min(ev.Op, event.FileMapExec)]...)
	case taxonomy.AuditSuccess:
		return append(out, "yes")
	case taxonomy.AuditName:
		return fileValues(taxonomy.TargetFilename, ev, out)
	case taxonomy.AuditNameType:
		switch ev.Op {
		case event.FileCreate, event.FileMkdir, event.FileMknod, event.FileLink, event.FileSymlink:
			return append(out, "CREATE")
		case event.FileUnlink, event.FileRmdir:
			return append(out, "DELETE")
		case event.FileRename:
			return append(out, "DELETE", "CREATE")
		}
		return append(out, "NORMAL")
	}
	return out
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
