package intent

import (
	"maps"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// actionNames are the words for actions in policies, commands and lists.
var actionNames = map[sensorv1.Action]string{
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

var actionsByName = func() map[string]sensorv1.Action {
	byName := make(map[string]sensorv1.Action, len(actionNames))
	for action, name := range actionNames {
		byName[name] = action
	}
	return byName
}()

// Actions are all that a policy can speak of, in the order of their numbers.
func Actions() []sensorv1.Action {
	return slices.Sorted(maps.Keys(actionNames))
}

// ActionName is the action's word; empty for one that is unknown here.
func ActionName(a sensorv1.Action) string { return actionNames[a] }

// ActionNames are the words of all actions, ascending.
func ActionNames() []string { return slices.Sorted(maps.Keys(actionsByName)) }

// ParseAction is the action with that word; unspecified when there is none.
func ParseAction(name string) sensorv1.Action { return actionsByName[name] }

// The levels of the autonomy ladder.
const (
	Observe   = 0 // said nowhere but in the record
	Recommend = 1 // shown to people
	Approve   = 2 // done once a person signs
	Veto      = 3 // done unless a person says no in time
	Act       = 4 // done at once, inside the governor
)

var levelTexts = [...]string{
	Observe: "observe only", Recommend: "recommend", Approve: "act on approval",
	Veto: "act unless vetoed", Act: "act at once",
}

// LevelText is a level in words.
func LevelText(level int) string {
	if level < 0 || level >= len(levelTexts) {
		return "no level"
	}
	return levelTexts[level]
}

// severities are those of findings, least first.
var severities = []string{"informational", "low", "medium", "high", "critical"}

// kinds are those of findings that are known today: others are no mistake.
var kinds = []string{"rule", "new-exec", "new-flow", "follow-up", "tamper", "blind", "silent", "returned", "two-places"}

// nearest is the word of words that was perhaps meant by wrong; empty when none is near.
func nearest(wrong string, words []string) string {
	best, least := "", 1+min(3, len(wrong)/2)
	for _, word := range words {
		if d := distance(strings.ToLower(wrong), word); d < least {
			best, least = word, d
		}
	}
	return best
}

// distance is how many letters are wrong, missing, too many or in the other's place
// (optimal string alignment), of short words.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := range len(a) {
		before, last, row := rows[i%3], rows[(i+1)%3], rows[(i+2)%3]
		row[0] = i + 1
		for j := range len(b) {
			cost := last[j]
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
