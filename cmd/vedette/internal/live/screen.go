package live

import (
	"context"
	"errors"
	"fmt"
	"os"

	tea "charm.land/bubbletea/v2"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// What the screen is fed with.
type (
	eventMsg    struct{ *operatorv1.WatchResponse }
	snapshotMsg Snapshot
	troubleMsg  string
)

// Screen is the full-screen view. Its methods may be called from any goroutine
// while Run runs.
type Screen struct{ program *tea.Program }

// NewScreen makes the view on a terminal, with hints at its foot.
func NewScreen(ctx context.Context, in, out *os.File, colour bool, hints []string) *Screen {
	m := &model{state: NewState(), colour: colour}
	m.state.Hints = hints
	return &Screen{tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler())}
}

// Run shows the view until the person leaves it or ctx ends; both are no error.
func (s *Screen) Run() error {
	_, err := s.program.Run()
	if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, tea.ErrInterrupted) || errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("drawing on the terminal: %w", err)
	}
	return nil
}

// Event shows one event.
func (s *Screen) Event(ev *operatorv1.WatchResponse) { s.program.Send(eventMsg{ev}) }

// Take shows a round of lists.
func (s *Screen) Take(snap Snapshot) { s.program.Send(snapshotMsg(snap)) }

// Trouble shows why nothing comes; "" when it comes again.
func (s *Screen) Trouble(why string) { s.program.Send(troubleMsg(why)) }

type model struct {
	state         *State
	width, height int
	colour        bool
	paused        bool
	frozen        string // what was drawn when the person paused
}

func (m *model) Init() tea.Cmd { return nil }

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return m, tea.Quit
		case "p", "space":
			m.paused = !m.paused
			m.frozen = Draw(m.state, m.width, m.height, m.colour)
		}
	case eventMsg:
		m.state.Event(msg.WatchResponse)
	case snapshotMsg:
		m.state.Take(Snapshot(msg))
	case troubleMsg:
		m.state.Trouble = string(msg)
	}
	return m, nil
}

func (m *model) View() tea.View {
	v := tea.NewView(m.frozen)
	if !m.paused {
		v.SetContent(Draw(m.state, m.width, m.height, m.colour))
	}
	v.AltScreen = true
	v.WindowTitle = "vedette watch"
	return v
}
