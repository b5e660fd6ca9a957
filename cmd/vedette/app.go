package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/coordinator/client"
)

// defaultTimeout is how long a command may take when nobody says otherwise.
const defaultTimeout = 30 * time.Second

// app is one run of the program: its streams and its global settings.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	now            func() time.Time

	// Global flags; empty means not given.
	contextFile, contextName string
	output, timeout          string
	noHeaders, verbose       bool
}

func newApp(stdin, stdout, stderr *os.File) *app {
	return &app{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
}

// run executes the command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var failed *commandError
	if !errors.As(err, &failed) {
		// What no command's body returned is cobra's judgement of the command line.
		err = usage("%w\nsee '%s --help'", err, cmd.CommandPath())
	}
	code := exitCode(err)
	if text := errorText(err); text != "" {
		a.lines("vedette: " + text)
	}
	switch {
	case errors.Is(err, client.ErrNoLeader):
		a.say("Nothing was decided. A majority of the nodes must run and reach each other: 'vedette status' says which do not. Sensors go on and keep what they have to say.")
	case errors.Is(err, client.ErrUnreachable):
		a.say("Is a node running at these addresses, and may this machine reach it (TCP)? 'vedette config get-contexts' shows where they come from.")
	}
	return code
}

// env is the environment's word for a global flag.
func env(name string) string { return os.Getenv("VEDETTE_" + name) }

// first returns the first value that says something.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// path is the context file in effect: flag, environment, default.
func (a *app) path() (string, error) {
	if p := first(a.contextFile, env("CONTEXT_FILE")); p != "" {
		return p, nil
	}
	return client.DefaultPath()
}

// context loads the context in effect.
func (a *app) context() (*client.Context, error) {
	path, err := a.path()
	if err != nil {
		return nil, err
	}
	c, err := client.LoadContext(path, first(a.contextName, env("CONTEXT")))
	if errors.Is(err, client.ErrNoContext) {
		return nil, usage("%w\nrun 'vedette config import FILE' with the admin.context.yaml that a node wrote, "+
			"or set VEDETTE_CONTEXT_FILE to it", err)
	}
	return c, err
}

// session is what most commands need: the cluster, a printer, and a deadline.
type session struct {
	*app
	*output.Printer
	api     *client.Client
	context *client.Context
	timeout time.Duration
}

// open starts a session with the context in effect.
func (a *app) open() (*session, error) {
	c, err := a.context()
	if err != nil {
		return nil, err
	}
	p, err := a.printer(c.Output)
	if err != nil {
		return nil, err
	}
	timeout, err := a.deadline(c.Timeout)
	if err != nil {
		return nil, err
	}
	opt := client.Options{UserAgent: "vedette/" + version, PageTime: timeout}
	if a.verbose {
		opt.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c.Nodes = remembered(c.ClusterID, c.Nodes)
	api, err := client.New(c, opt)
	if err != nil {
		return nil, err
	}
	return &session{app: a, Printer: p, api: api, context: c, timeout: timeout}, nil
}

func (a *app) deadline(fromContext string) (time.Duration, error) {
	value := first(a.timeout, env("TIMEOUT"), fromContext)
	if value == "" {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return 0, usage("timeout %q is no duration: write it as 45s or 5m, 0 for none", value)
	}
	return d, nil
}

// printer makes the printer of the settings in effect.
func (a *app) printer(fromContext string) (*output.Printer, error) {
	format, err := output.ParseFormat(first(a.output, env("OUTPUT"), fromContext, string(output.Table)))
	if err != nil {
		return nil, usage("%w", err)
	}
	headless := a.noHeaders
	if v := env("NO_HEADERS"); v != "" && !headless {
		if headless, err = strconv.ParseBool(v); err != nil {
			return nil, usage("VEDETTE_NO_HEADERS=%q is neither true nor false", v)
		}
	}
	p := &output.Printer{Out: a.stdout, Format: format, NoHeaders: headless}
	if fd := int(a.stdout.Fd()); term.IsTerminal(fd) {
		p.Colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if width, _, err := term.GetSize(fd); err == nil {
			p.Width = width
		}
	}
	return p, nil
}

// terminal opens the terminal of the person at it, or says that there is none: a
// process may have one and still run where nobody looks, as a cron job's child does.
// It is not stdin, so that a list of hosts can come in by a pipe and still be agreed to.
func (a *app) terminal() (*os.File, bool) {
	if !term.IsTerminal(int(a.stdin.Fd())) && !term.IsTerminal(int(a.stderr.Fd())) {
		return nil, false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	return tty, err == nil
}

// with makes the body of a command that talks to the cluster within the time-out.
func (a *app) with(body func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return a.connected(func(ctx context.Context, s *session, args []string) error {
		ctx, cancel := s.limit(ctx)
		defer cancel()
		return body(ctx, s, args)
	})
}

// connected is with for a command that limits its own parts: a person who is asked
// something may take the time to think.
func (a *app) connected(body func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return bare(func(ctx context.Context, args []string) error {
		s, err := a.open()
		if err != nil {
			return err
		}
		defer s.api.Close()
		err = body(ctx, s, args)
		if s.api.TrustBehind() {
			s.followTrust(ctx)
		}
		return err
	})
}

// listing is with for a list, which may be long: the time-out is for each page of it.
func (a *app) listing(body func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return a.connected(body)
}

// limit starts the time-out.
func (s *session) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.timeout)
}

// bare makes the body of a command that needs no cluster. Its errors are marked,
// so that run can tell them from a command line that makes no sense.
func bare(body func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := body(cmd.Context(), args); err != nil {
			return &commandError{err}
		}
		return nil
	}
}
