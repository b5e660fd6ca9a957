package detect

import (
	"os"
	"testing"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/rules"
)

// Ensure each rule, built in or of the ecosystem, that can match has an event of the sensor's
// own kinds that it matches, and one that it does not, made up from its condition.
func TestExamples(t *testing.T) {
	t.Run("built in", func(t *testing.T) { tryExamples(t, engine(t), parseAll(t, rules.Files)) })
	t.Run("ecosystem", func(t *testing.T) {
		dir := ecosystem(t)
		tryExamples(t, engine(t, func(c *Config) { c.RulesDir = dir; c.MinLevel = event.Informational }), parseAll(t, os.DirFS(dir)))
	})
}

func tryExamples(t *testing.T, e *Engine, of []*sigma.Rule) {
	tried := e.Try(of)
	t.Logf("of %d rules %d are used; events were made up for %d that match, %d that do not", len(of), tried.Mapped, tried.Positive, tried.Negative)
	for _, text := range tried.Without {
		t.Error(text)
	}
}
