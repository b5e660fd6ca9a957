package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/drill"
)

const (
	// partInside is the drill's process in its namespaces.
	partInside = "inside"

	// Addresses that are nobody's (RFC 5737), on loopback of a private network.
	netPeer = "198.51.100.7"
	netName = "198.51.100.53"
	netNext = "203.0.113.9"
)

// errSkip: the host lacks what the drill needs; the text says what.
var errSkip = errors.New("needs")

func lacks(what string) error { return fmt.Errorf("%w %s", errSkip, what) }

// Act is the body of a drill's processes: args are mark, id, part and what the part is told.
func Act(ctx context.Context, args []string) int {
	if len(args) < 3 || os.Getenv(envMark) != args[0] || !filepath.IsAbs(os.Getenv(envDir)) {
		fmt.Fprintln(os.Stderr, "this is started by 'vedette-sensor drill run' and by nobody else")
		return 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := act(ctx, args[0], args[1], args[2], args[3:])
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errSkip):
		fmt.Fprintln(os.Stderr, err)
		return exitSkip
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

func act(ctx context.Context, mark, id, part string, more []string) error {
	d, ok := drill.Find(id)
	body := bodies[id]
	if !ok || body == nil {
		return fmt.Errorf("no drill is called %q", id)
	}
	s := &stage{Drill: d, ctx: ctx, mark: mark, dir: os.Getenv(envDir), args: more}
	s.scratch = filepath.Join(s.dir, id)
	if part != "" && part != partInside {
		run := parts[part]
		if run == nil {
			return fmt.Errorf("drills have no part %q", part)
		}
		return run(s)
	}
	if part == "" {
		if err := os.Mkdir(s.scratch, 0o711); err != nil {
			return fmt.Errorf("making the scratch folder: %w", err)
		}
		if flags := s.namespaces(); flags != 0 {
			cmd := s.self(partInside)
			cmd.SysProcAttr.Cloneflags = flags
			return passOn(cmd.Run())
		}
		return body(s)
	}
	if err := s.enter(); err != nil {
		return err
	}
	return body(s)
}

// passOn keeps a child's word, and its exit code where that is skip.
func passOn(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitSkip {
		os.Exit(exitSkip)
	}
	return err
}

// stage is where a drill acts.
type stage struct {
	drill.Drill
	ctx     context.Context //nolint:containedctx // of one process's one deed
	mark    string
	dir     string // of the run
	scratch string // of the drill
	args    []string
}

func (s *stage) namespaces() (flags uintptr) {
	if s.Private != "" {
		flags |= unix.CLONE_NEWNS
	}
	if s.Network {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// enter makes the namespaces that this process was started in what the drill needs.
func (s *stage) enter() error {
	if s.Network {
		if err := networkUp(); err != nil {
			return fmt.Errorf("making the private network: %w", err)
		}
	}
	if s.Private == "" {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	memory := filepath.Join(s.scratch, "memory")
	if err := os.Mkdir(memory, 0o755); err != nil {
		return fmt.Errorf("making the overlays' folder: %w", err)
	}
	if err := unix.Mount("vedette-drill", memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64m,mode=0755"); err != nil {
		return fmt.Errorf("mounting memory: %w", err)
	}
	for i, over := range strings.Fields(s.Private) {
		if _, err := os.Stat(over); err != nil {
			return lacks(over)
		}
		upper, work := filepath.Join(memory, fmt.Sprint("upper", i)), filepath.Join(memory, fmt.Sprint("work", i))
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o700)); err != nil {
			return fmt.Errorf("making an overlay's folders: %w", err)
		}
		if err := unix.Mount("vedette-drill", over, "overlay", unix.MS_NOSUID, "lowerdir="+over+",upperdir="+upper+",workdir="+work); err != nil {
			return lacks(fmt.Sprintf("overlays in memory (%s: %v)", over, err))
		}
	}
	// What is to be there already is looked up with the rest.
	if before := prepared[s.ID]; before != nil {
		if err := before(s); err != nil {
			return err
		}
	}
	// A sensor looks watched paths up where something was executed, and while it lives.
	if err := s.self("wait").Start(); err != nil {
		return err
	}
	wait, err := time.ParseDuration(os.Getenv(envLook))
	if err != nil || wait > limit/2 {
		wait = lookUp
	}
	s.pause(wait)
	return nil
}

func networkUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, address := range []string{netPeer, netName, netNext} {
		parsed, err := netlink.ParseAddr(address + "/32")
		if err == nil {
			err = netlink.AddrAdd(lo, parsed)
		}
		if err != nil {
			return fmt.Errorf("adding %s: %w", address, err)
		}
	}
	return nil
}

func (s *stage) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ctx.Done():
	case <-timer.C:
	}
}

// command is a program in the scratch folder; what it says goes nowhere.
func (s *stage) command(path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, path, args...)
	cmd.Dir = s.scratch
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd
}

// run runs one of the host's programs. That it fails is its own affair: the attempt counts.
func (s *stage) run(name string, args ...string) error {
	path := findTool(name)
	if path == "" {
		return lacks(name)
	}
	return attempt(s.command(path, args...))
}

// attempt is nil when the program ran, whatever it answered.
func attempt(cmd *exec.Cmd) error {
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return nil
}

// sh runs a command line by the host's shell.
func (s *stage) sh(line string) error { return s.run("sh", "-c", line) }

// self is another process of the drill, by this program.
func (s *stage) self(part string, args ...string) *exec.Cmd {
	return s.copied(filepath.Join(s.dir, programName), part, args...)
}

// copied is another process of the drill, by a copy of this program.
func (s *stage) copied(path, part string, args ...string) *exec.Cmd {
	cmd := s.command(path, actArgs(s.mark, s.ID, part, args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// part runs another process of the drill to its end.
func (s *stage) part(part string, args ...string) error { return passOn(s.self(part, args...).Run()) }

func (s *stage) placeName(hidden bool) string {
	if hidden {
		return ".vedette-drill-" + filepath.Base(s.dir)
	}
	return "vedette-drill-" + filepath.Base(s.dir)
}

// place makes a folder of this run's on the host; the journal knows of it first.
func (s *stage) place(parent string, hidden bool) (string, error) {
	path := filepath.Join(parent, s.placeName(hidden))
	if err := note(s.dir, entry{Mark: s.mark, Undo: "remove", Path: path}); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return "", fmt.Errorf("making a folder in %s: %w", parent, err)
	}
	return path, os.Chmod(path, 0o755) //nolint:gosec // a service's account may have to pass
}

// inert copies true to a path, under any name.
func (s *stage) inert(to string) error { return s.copyTool("true", to) }

func (s *stage) copyTool(name, to string) error {
	from := findTool(name)
	if from == "" {
		return lacks(name)
	}
	to, err := s.own(to)
	if err != nil {
		return err
	}
	if err := copyFile(from, to, 0o755); err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	return nil
}

// implant is this program at a place of its own.
func (s *stage) implant(parent, name string) (string, error) {
	dir, err := s.place(parent, false)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, copyProgram(path)
}

// documents makes files with nothing in them that is anybody's.
func (s *stage) documents(n int) (string, error) {
	dir := filepath.Join(s.scratch, "documents")
	for i := range n {
		if err := s.write(filepath.Join(dir, fmt.Sprintf("report-%03d.txt", i)), strings.Repeat("nothing of anybody's\n", 200)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// sleeper starts a program that the drill's other processes are no parents of.
func (s *stage) sleeper() (*exec.Cmd, error) {
	path := findTool("sleep")
	if path == "" {
		return nil, lacks("sleep")
	}
	cmd := s.command(path, "30")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a sleeper: %w", err)
	}
	s.pause(200 * time.Millisecond) // until it is the program and not its copy of us
	return cmd, nil
}

// peer is the other side of a private network's connections: a process of its own, so that what
// the drill does afterwards is not done by a server. It listens when peer returns.
func (s *stage) peer(kind, address string) error {
	cmd := s.self("peer", kind, address)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("starting the other side: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(out, 64)).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		return fmt.Errorf("waiting for the other side: %w", errors.Join(err, errors.New("it is not ready")))
	}
	return nil
}

// service is an account that services run as.
func service() (*syscall.Credential, error) {
	for _, name := range []string{"www-data", "apache", "nginx", "http", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, lacks("an account of a service")
}
