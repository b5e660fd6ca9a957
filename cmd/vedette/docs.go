package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// docsCommand is for packaging, not for operators.
func docsCommand() *cobra.Command {
	docs := &cobra.Command{Use: "docs", Hidden: true, Short: "write this program's manual", Args: none}
	docs.AddCommand(&cobra.Command{
		Use:   "man DIR",
		Short: "write man pages, one a command",
		Args:  exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return bare(func(context.Context, []string) error { return man(cmd.Root(), args[0]) })(cmd, args)
		},
	})
	return docs
}

func man(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	// A fixed date, so that the same source gives the same package.
	date := time.Unix(0, 0).UTC()
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Title: "VEDETTE", Section: "1", Source: "Vedette", Manual: "Vedette", Date: &date}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("writing man pages: %w", err)
	}
	return nil
}
