package grant

import "github.com/vedette-edr/vedette/proto/sensorv1"

// words are the actions as operators, policies and the audit name them.
var words = map[sensorv1.Action]string{
	sensorv1.Action_ACTION_ISOLATE:         "isolate",
	sensorv1.Action_ACTION_RELEASE:         "release",
	sensorv1.Action_ACTION_FREEZE:          "freeze",
	sensorv1.Action_ACTION_KILL:            "kill",
	sensorv1.Action_ACTION_BLOCK_IMAGE:     "block-image",
	sensorv1.Action_ACTION_BLOCK_ADDRESS:   "block-address",
	sensorv1.Action_ACTION_BLOCK_NAME:      "block-name",
	sensorv1.Action_ACTION_LOCK_ACCOUNT:    "lock-account",
	sensorv1.Action_ACTION_QUARANTINE_FILE: "quarantine-file",
	sensorv1.Action_ACTION_BLOCK_NEIGHBOUR: "block-neighbour",
}

var levels = map[sensorv1.IsolationLevel]string{
	sensorv1.IsolationLevel_ISOLATION_LEVEL_UNSPECIFIED: "full",
	sensorv1.IsolationLevel_ISOLATION_LEVEL_FULL:        "full",
	sensorv1.IsolationLevel_ISOLATION_LEVEL_EGRESS_ONLY: "egress-only",
	sensorv1.IsolationLevel_ISOLATION_LEVEL_JUMP:        "jump",
}

// Word is an action's name, empty when this version does not know it.
func Word(action sensorv1.Action) string { return words[action] }

// LevelWord is an isolation level's name, empty when this version does not know it.
func LevelWord(level sensorv1.IsolationLevel) string { return levels[level] }

// Level reads an isolation level's name.
func Level(word string) (sensorv1.IsolationLevel, bool) {
	for level, name := range levels {
		if name == word && level != sensorv1.IsolationLevel_ISOLATION_LEVEL_UNSPECIFIED {
			return level, true
		}
	}
	return 0, false
}
