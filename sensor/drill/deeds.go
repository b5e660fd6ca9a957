package drill

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setUpRing sets an io_uring of one entry up (io_uring_setup(2)).
func setUpRing(*stage) error {
	const paramsSize = 120 // struct io_uring_params
	var params [paramsSize]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return lacks(fmt.Sprintf("io_uring (%v)", errno))
	}
	return unix.Close(int(fd)) //nolint:gosec // a descriptor
}

// runFromMemory executes true without a file.
func runFromMemory(s *stage) error {
	raw, err := os.ReadFile(findTool("true"))
	if err != nil {
		return lacks("true")
	}
	fd, err := unix.MemfdCreate("cache", unix.MFD_CLOEXEC)
	if err != nil {
		return lacks(fmt.Sprintf("memfd_create (%v)", err))
	}
	f := os.NewFile(uintptr(fd), "memfd") //nolint:gosec // a descriptor
	defer f.Close()
	if _, err := f.Write(raw); err != nil {
		return fmt.Errorf("writing to memory: %w", err)
	}
	return attempt(s.command(fmt.Sprintf("/proc/self/fd/%d", fd)))
}

// runDeleted executes a file that has no name any more.
func runDeleted(s *stage) error {
	dir, err := s.place("/var/tmp", false)
	if err == nil {
		err = s.inert(filepath.Join(dir, "update"))
	}
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, "update"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	return attempt(s.command(fmt.Sprintf("/proc/self/fd/%d", f.Fd())))
}

// unpack makes anonymous memory executable. What is in it returns at once, and is not called.
func unpack(*stage) error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("mapping memory: %w", err)
	}
	const ret = 0xc3
	page[0] = ret
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return lacks(fmt.Sprintf("memory that may be made executable (%v)", err))
	}
	return unix.Munmap(page)
}

// forceModule gives the kernel what is no module. No kernel takes it.
func forceModule(*stage) error {
	if err := unix.InitModule([]byte("this is a drill and no module"), ""); err == nil {
		return errors.New("the kernel took what is no module")
	}
	return nil
}

// loadProgram loads an eBPF socket filter that lets nothing through, for no socket (bpf(2)).
func loadProgram(*stage) error {
	const (
		progLoad     = 5
		socketFilter = 1
	)
	instructions := [2]uint64{0xb7, 0x95} // r0 = 0; exit
	licence := [...]byte{'G', 'P', 'L', 0}
	attributes := struct {
		kind, count           uint32
		instructions, licence uint64
		logLevel, logSize     uint32
		log                   uint64
		version, flags        uint32
		name                  [16]byte
	}{
		kind: socketFilter, count: uint32(len(instructions)),
		instructions: uint64(uintptr(unsafe.Pointer(&instructions))), licence: uint64(uintptr(unsafe.Pointer(&licence))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, progLoad, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes))
	runtime.KeepAlive(&instructions)
	runtime.KeepAlive(&licence)
	if errno != 0 {
		return lacks(fmt.Sprintf("bpf(2) (%v)", errno))
	}
	return unix.Close(int(fd)) //nolint:gosec // a descriptor
}

// changeRoot ends in a file system in memory that only this namespace has.
func changeRoot(s *stage) error {
	root := filepath.Join(s.scratch, "memory", "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("vedette-drill", root, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mounting memory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(root, "old"), 0o755); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, filepath.Join(root, "old")); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return os.Chdir("/")
}

// hideProcess mounts an empty folder over what /proc says of a process of its own.
func hideProcess(s *stage) error {
	sleeper, err := s.sleeper()
	if err != nil {
		return err
	}
	empty := filepath.Join(s.scratch, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	over := fmt.Sprintf("/proc/%d", sleeper.Process.Pid)
	if err := note(s.dir, entry{Mark: s.mark, Undo: "umount", Path: over}); err != nil {
		return err
	}
	if err := unix.Mount(empty, over, "", unix.MS_BIND, ""); err != nil {
		return lacks(fmt.Sprintf("mounts over /proc (%v)", err))
	}
	s.pause(300 * time.Millisecond)
	return errors.Join(unix.Unmount(over, unix.UMOUNT_NOFOLLOW), sleeper.Process.Kill())
}

// makeUserNamespace starts true in a user namespace.
func makeUserNamespace(s *stage) error {
	cmd := s.command(findTool("true"))
	cmd.Dir = "/"
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return lacks(fmt.Sprintf("user namespaces for service accounts (%v)", err))
	}
	return nil
}

// victim is a process and a place in its stack that may be written.
func victim(s *stage) (pid int, address uint64, err error) {
	if len(s.args) != 1 {
		return 0, 0, errors.New("a victim is one process")
	}
	if pid, err = strconv.Atoi(s.args[0]); err != nil {
		return 0, 0, err
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("reading where the victim's stack is: %w", err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if strings.HasSuffix(line, "[stack]") {
			span, _, _ := strings.Cut(line, " ")
			_, end, _ := strings.Cut(span, "-")
			last, err := strconv.ParseUint(end, 16, 64)
			return pid, last - 16, err
		}
	}
	return 0, 0, errors.New("the victim has no stack")
}

// attached does something to a process that is stopped for it.
func attached(pid int, do func() error) error {
	runtime.LockOSThread() // ptrace(2) is by thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceAttach(pid); err != nil {
		return lacks(fmt.Sprintf("ptrace (%v)", err))
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return fmt.Errorf("waiting for the victim to stop: %w", err)
	}
	return errors.Join(do(), unix.PtraceDetach(pid))
}

// traceAndWrite writes a word of the victim back as it was.
func traceAndWrite(s *stage) error {
	pid, address, err := victim(s)
	if err != nil {
		return err
	}
	return attached(pid, func() error {
		var word [8]byte
		if _, err := unix.PtracePeekData(pid, uintptr(address), word[:]); err != nil {
			return fmt.Errorf("reading a word: %w", err)
		}
		if _, err := unix.PtracePokeData(pid, uintptr(address), word[:]); err != nil {
			return fmt.Errorf("writing a word: %w", err)
		}
		return nil
	})
}

// traceAndRead reads a page of the victim.
func traceAndRead(s *stage) error {
	pid, address, err := victim(s)
	if err != nil {
		return err
	}
	return attached(pid, func() error {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return fmt.Errorf("opening the victim's memory: %w", err)
		}
		defer f.Close()
		_, err = f.ReadAt(make([]byte, 16), int64(address)) //nolint:gosec // of user space
		return err
	})
}

// writeMemory writes a byte of the victim back as it was, by its file in /proc.
func writeMemory(s *stage) error {
	pid, address, err := victim(s)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return lacks(fmt.Sprintf("leave to write /proc/PID/mem (%v)", err))
	}
	defer f.Close()
	var one [1]byte
	if _, err := f.ReadAt(one[:], int64(address)); err != nil { //nolint:gosec // of user space
		return err
	}
	if _, err := f.WriteAt(one[:], int64(address)); err != nil { //nolint:gosec // of user space
		return lacks(fmt.Sprintf("leave to write /proc/PID/mem (%v)", err))
	}
	return nil
}

// writeForeign writes a byte of the victim back as it was, by process_vm_writev(2).
func writeForeign(s *stage) error {
	pid, address, err := victim(s)
	if err != nil {
		return err
	}
	var one [1]byte
	local := []unix.Iovec{{Base: &one[0]}}
	local[0].SetLen(1)
	remote := []unix.RemoteIovec{{Base: uintptr(address), Len: 1}}
	if _, err := unix.ProcessVMReadv(pid, local, remote, 0); err != nil {
		return fmt.Errorf("reading a byte: %w", err)
	}
	if _, err := unix.ProcessVMWritev(pid, local, remote, 0); err != nil {
		return lacks(fmt.Sprintf("process_vm_writev (%v)", err))
	}
	return nil
}

func network16(n uint16) uint16 { return n<<8 | n>>8 }

func packetSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(network16(unix.ETH_P_ALL)))
	if err != nil {
		return 0, lacks(fmt.Sprintf("packet sockets (%v)", err))
	}
	return fd, nil
}

func openPacketSocket(*stage) error {
	fd, err := packetSocket()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// filterPackets attaches a filter that lets nothing through: what waits for a secret sign does so.
func filterPackets(*stage) error {
	fd, err := packetSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	nothing := unix.SockFilter{Code: 0x06} // BPF_RET | BPF_K
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
}

// forgeAnswer says over loopback who has an address (RFC 826).
func forgeAnswer(*stage) error {
	fd, err := packetSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := append(make([]byte, 12), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2)
	frame = append(frame, 2, 0, 0, 0, 0, 1, 198, 51, 100, 1, 2, 0, 0, 0, 0, 2, 198, 51, 100, 7)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: 1, Protocol: network16(unix.ETH_P_ARP)})
}

// sendRaw sends an echo request (RFC 792).
func sendRaw(*stage) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return lacks(fmt.Sprintf("raw sockets (%v)", err))
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0, &unix.SockaddrInet4{Addr: [4]byte{198, 51, 100, 7}})
}
