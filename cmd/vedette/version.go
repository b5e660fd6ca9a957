package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
)

// build is `version`.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "the version of this program",
		Long:    "Shows the version of this program; 'vedette status' shows the coordinator's.",
		Example: "  vedette version -o json",
		Args:    none,
		RunE: bare(func(context.Context, []string) error {
			p, err := a.printer("")
			if err != nil {
				return err
			}
			b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						b.Commit = s.Value
					}
				}
			}
			return p.Show(output.Shown{Name: b.Version, Value: b, Page: func(g *output.Page) {
				g.Title(output.Plain, fmt.Sprintf("vedette %s%s, %s, %s", b.Version, bracket(b.Commit), b.Go, b.Platform))
			}})
		}),
	}
}
