package uplink_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

func question(id uint64, text string) *sensorv1.CoordinatorMessage {
	return &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Question{Question: &sensorv1.Question{
		Id: id, Body: &sensorv1.Question_Ask{Ask: &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: text}}}}}}
}

func cancelled(id uint64) *sensorv1.CoordinatorMessage {
	return &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Question{Question: &sensorv1.Question{
		Id: id, Body: &sensorv1.Question_Cancel{Cancel: true}}}}
}

// say sends to the sensor's only session.
func (n *node) say(t *testing.T, messages ...*sensorv1.CoordinatorMessage) {
	t.Helper()
	until(t, "a session", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.sessions) == 1
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, send := range n.sessions {
		for _, m := range messages {
			if err := send(m); err != nil {
				t.Error(err)
			}
		}
	}
}

// Ensure questions are answered one at a time in their order, one that is taken back is not
// waited for, too many at once are told so, and the session goes on.
func TestQuestions(t *testing.T) {
	ca := linktest.NewCA(t)
	n := startNode(t, ca, "n1", "127.0.0.1:0", newStore())
	id, dir := enrollAt(t, n)
	var mu sync.Mutex
	var order []string
	running, most := 0, 0
	began, ended := make(chan string, 64), make(chan string, 64)
	startHost(t, id, dir, func(c *uplink.Config) {
		c.OnQuestion = func(ctx context.Context, ask *sensorv1.Ask, send func(*sensorv1.Answer) error) error {
			mu.Lock()
			running++
			most = max(most, running)
			order = append(order, ask.GetExpression())
			mu.Unlock()
			defer func() {
				mu.Lock()
				running--
				mu.Unlock()
			}()
			began <- ask.GetExpression()
			if ask.GetExpression() == "slow" {
				<-ctx.Done()
				ended <- "slow"
				return ctx.Err()
			}
			if err := send(&sensorv1.Answer{Rows: []*sensorv1.Sighting{{Type: ask.GetExpression()}}}); err != nil {
				return err
			}
			return send(&sensorv1.Answer{Done: true})
		}
	})
	if hello := <-n.hellos; hello.GetQuestions() != hunt.Version {
		t.Errorf("hello says %d", hello.GetQuestions())
	}
	n.say(t, question(1, "slow"))
	<-began
	messages := []*sensorv1.CoordinatorMessage{}
	for i := range 18 { // 16 wait, two are too many
		messages = append(messages, question(uint64(i+2), fmt.Sprint("q", i)))
	}
	n.say(t, append(messages, cancelled(3), cancelled(99), cancelled(1))...)
	<-ended
	var pieces []*sensorv1.Answer
	until(t, "all answers", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		pieces = n.answers
		return len(pieces) == 2*15+2
	})
	rows, refused := "", 0
	for _, p := range pieces {
		for _, row := range p.GetRows() {
			rows += row.GetType() + " "
		}
		if strings.Contains(p.GetError(), "16 questions wait") {
			refused++
		}
	}
	if rows != "q0 q2 q3 q4 q5 q6 q7 q8 q9 q10 q11 q12 q13 q14 q15 " || refused != 2 || most != 1 {
		t.Errorf("answered %q, refused %d, %d at once", rows, refused, most)
	}
	// The session has lived through it.
	n.say(t, question(50, "last"))
	until(t, "the last answer", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.answers) == 2*15+4
	})
	if len(n.hellos) != 0 {
		t.Error("there was another session")
	}
}

// Ensure a node that does not keep to the rules of questions loses the session, and a
// sensor that answers none says so.
func TestQuestionsOfABadNode(t *testing.T) {
	ca := linktest.NewCA(t)
	n := startNode(t, ca, "n1", "127.0.0.1:0", newStore())
	id, dir := enrollAt(t, n)
	h := startHost(t, id, dir, func(c *uplink.Config) {
		c.OnQuestion = func(ctx context.Context, _ *sensorv1.Ask, _ func(*sensorv1.Answer) error) error {
			<-ctx.Done() // ends with the session
			return ctx.Err()
		}
	})
	for _, messages := range [][]*sensorv1.CoordinatorMessage{
		{question(5, "x"), question(5, "again")}, {question(0, "no id")}, {question(1, strings.Repeat("x", 200<<10))},
	} {
		<-n.hellos
		n.say(t, messages...)
	}
	<-n.hellos // after the last as well
	h.stop()
	mute := startHost(t, id, dir, nil)
	if hello := <-n.hellos; hello.GetQuestions() != 0 {
		t.Errorf("hello says %d", hello.GetQuestions())
	}
	n.say(t, question(1, "x"))
	<-n.hellos
	mute.stop()
}
