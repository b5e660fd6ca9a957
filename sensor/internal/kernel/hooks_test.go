package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hookFunction is called once for each fsync(2), which nobody does by chance in the
// moment between attaching and looking, and is not inlined in any kernel since 2.6.
const hookFunction = "vfs_fsync_range"

// Ensure that each attach point of this kernel, wanted or optional, really runs a
// program: attaching alone proves little, since an LSM program that is attached to a
// kernel without the bpf module in its list is never called.
func TestHooks(t *testing.T) {
	needKernel(t)
	t.Run("BTF", func(t *testing.T) {
		spec, err := btf.LoadKernelSpec()
		if err != nil {
			t.Fatal(err)
		}
		var function *btf.Func
		if err := spec.TypeByName(hookFunction, &function); err != nil {
			t.Errorf("BTF does not describe %s: %v", hookFunction, err)
		}
	})
	t.Run("tp_btf", func(t *testing.T) {
		c := newHookCounter(t, ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_process_fork"})
		c.attach(func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p, AttachType: ebpf.AttachTraceRawTp})
		})
		c.mustCount(func() {
			process, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
			if err == nil {
				_, err = process.Wait()
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	})
	for name, attachType := range map[string]ebpf.AttachType{"fentry": ebpf.AttachTraceFEntry, "fexit": ebpf.AttachTraceFExit} {
		t.Run(name, func(t *testing.T) {
			needOptional(t, name, "BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)", "register_ftrace_direct", "register_ftrace_direct_multi")
			c := newHookCounter(t, ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: attachType, AttachTo: hookFunction})
			c.attach(func(p *ebpf.Program) (link.Link, error) {
				return link.AttachTracing(link.TracingOptions{Program: p, AttachType: attachType})
			})
			c.mustCount(c.fsync)
		})
	}
	t.Run("kprobe", func(t *testing.T) {
		needOptional(t, "kprobe", "kprobes (CONFIG_KPROBES)", "register_kprobe")
		c := newHookCounter(t, ebpf.ProgramSpec{Type: ebpf.Kprobe})
		c.attach(func(p *ebpf.Program) (link.Link, error) { return link.Kprobe(hookFunction, p, nil) })
		c.mustCount(c.fsync)
	})
	t.Run("kprobe.multi", func(t *testing.T) {
		needOptional(t, "kprobe.multi", "fprobe (CONFIG_FPROBE)", "register_fprobe")
		c := newHookCounter(t, ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceKprobeMulti})
		c.attach(func(p *ebpf.Program) (link.Link, error) {
			return link.KprobeMulti(p, link.KprobeMultiOptions{Symbols: []string{hookFunction, "vfs_open"}})
		})
		c.mustCount(c.fsync)
	})
	t.Run("LSM", func(t *testing.T) {
		active, err := os.ReadFile("/sys/kernel/security/lsm")
		if err != nil || !strings.Contains(","+strings.TrimSpace(string(active))+",", ",bpf,") {
			t.Skipf("SKIP: needs bpf in the kernel's list of security modules (lsm=…,bpf); it is %q", active)
		}
		c := newHookCounter(t, ebpf.ProgramSpec{Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "file_open"})
		c.attach(func(p *ebpf.Program) (link.Link, error) { return link.AttachLSM(link.LSMOptions{Program: p}) })
		c.mustCount(c.fsync)
	})
}

// needOptional skips where the kernel has none of the functions that the hook is
// made of.
func needOptional(t *testing.T, hook, feature string, functions ...string) {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range functions {
		var function *btf.Func
		if spec.TypeByName(name, &function) == nil {
			return
		}
	}
	t.Skipf("SKIP: needs %s for %s", feature, hook)
}

// hookCounter is a program that counts its runs in this process.
type hookCounter struct {
	t       *testing.T
	program *ebpf.Program
	runs    *ebpf.Map
}

// newHookCounter loads a program that adds one to a map for each run in this process
// and returns 0, which for an LSM hook means that it has no objection.
func newHookCounter(t *testing.T, spec ebpf.ProgramSpec) *hookCounter {
	t.Helper()
	runs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = runs.Close() })
	spec.Name = "hook_counter"
	spec.License = "GPL"
	spec.Instructions = asm.Instructions{
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.JNE.Imm(asm.R0, int32(os.Getpid()), "end"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, runs.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	}
	program, err := ebpf.NewProgram(&spec)
	// Whoever runs this kernel may have forbidden it. vmtest takes a skip for a
	// failure where the hook is known to be.
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EPERM) {
		t.Skipf("SKIP: needs a kernel that lets root load %s programs: %v", spec.AttachType, err)
	}
	if err != nil {
		t.Fatalf("loading: %+v", err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return &hookCounter{t: t, program: program, runs: runs}
}

func (c *hookCounter) attach(attach func(*ebpf.Program) (link.Link, error)) {
	c.t.Helper()
	l, err := attach(c.program)
	if err != nil {
		c.t.Fatalf("attaching: %v", err)
	}
	c.t.Cleanup(func() { _ = l.Close() })
}

// mustCount fails unless action makes the program run.
func (c *hookCounter) mustCount(action func()) {
	c.t.Helper()
	before := c.count()
	action()
	if after := c.count(); after <= before {
		c.t.Errorf("runs %d, before %d: it is attached and never called", after, before)
	}
}

func (c *hookCounter) count() (n uint64) {
	c.t.Helper()
	if err := c.runs.Lookup(uint32(0), &n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// fsync opens a file and syncs it: what the LSM hook and hookFunction see.
func (c *hookCounter) fsync() {
	c.t.Helper()
	file, err := os.Create(filepath.Join(c.t.TempDir(), "synced"))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		c.t.Fatal(err)
	}
}
