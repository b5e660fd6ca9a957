// Package rules holds the rules that every sensor has, in the Sigma format.
package rules

import "embed"

// Files are the rules, one in a file.
//
//go:embed *.yml
var Files embed.FS
