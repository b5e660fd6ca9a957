// Package campaigneval plays weeks of made-up fleets, whose attacks are known, through the
// engine's own joins and weights, without sockets and without a log, and holds what it makes of
// them against the truth and beside simpler rules.
//
// Invariant: a seed is a week, the same each time; nothing of how campaigns are made is here.
package campaigneval
