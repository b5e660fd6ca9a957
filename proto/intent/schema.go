package intent

import (
	"fmt"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// Schema is what a policy can speak of, in Cedar's own schema language; Cedar's tools
// take it as it is. A policy that names anything else is refused: Cedar itself would
// let it pass and never match.
const Schema = `namespace Vedette {
  // Who acts: always Vedette::Automation::"vedette".
  entity Automation;
  // The hosts whose labels match a group of the intent.
  entity Group;
  // A host, by its id. Its labels are its tags.
  entity Host in [Group] { name: String } tags String;

  type Evidence = {
    level: Long,
    confidence: decimal,
    severity: String,
    kind: String,
    rule: String,
    techniques: Set<String>,
    tainted: Bool,
    learning: Bool,
    losses: Bool,
    image: String,
    traits: Set<String>,
    user: String,
    unit: String,
    account: String
  };

  action "isolate", "release", "freeze", "kill", "block-image", "block-address", "block-name",
    "lock-account", "quarantine-file", "block-neighbour"
  appliesTo { principal: [Automation], resource: [Host], context: Evidence };
}
`

// Names of the schema.
const (
	typeAutomation cedar.EntityType = "Vedette::Automation"
	typeAction     cedar.EntityType = "Vedette::Action"
	typeGroup      cedar.EntityType = "Vedette::Group"
	typeHost       cedar.EntityType = "Vedette::Host"
)

var principal = cedar.NewEntityUID(typeAutomation, "vedette")

// validator is made when first needed: a sensor without an intent does without.
var validator = sync.OnceValues(func() (*validate.Validator, error) {
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(Schema)); err != nil {
		return nil, fmt.Errorf("reading the schema of policies: %w", err)
	}
	resolved, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("reading the schema of policies: %w", err)
	}
	return validate.New(resolved), nil
})
