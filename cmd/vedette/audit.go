package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func (a *app) auditCommand() *cobra.Command {
	return noun("audit", "the hash-chained record of what was decided and by whom",
		"  vedette audit list --limit 20\n  vedette audit verify",
		a.auditListCommand(), a.auditVerifyCommand(), a.auditExportCommand(), a.auditCheckpointCommand())
}

func (a *app) auditListCommand() *cobra.Command {
	var after uint64
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "list the record, oldest first",
		Example: `  vedette audit list --after 1200
  vedette audit list -o jsonl > audit.jsonl    an export that 'audit verify --file' checks`,
		Args: none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			n, err := output.Print(s.Printer, auditTable(), head(s.api.Audit(ctx, after), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no entries")
			}
			return err
		}),
	}
	c.Flags().Uint64Var(&after, "after", 0, "only entries after this index")
	limitFlag(c, &limit)
	return c
}

func auditTable() output.List[*operatorv1.AuditEntry] {
	type row = *operatorv1.AuditEntry
	return output.List[row]{
		Name:  func(e row) string { return number(e.GetIndex()) },
		Value: func(e row) any { return shape.FromAudit(e) },
		Columns: []output.Column[row]{
			{Head: "INDEX", Right: true, Cell: func(e row) string { return number(e.GetIndex()) }},
			{Head: "TIME", Cell: func(e row) string { return clock(e.GetTime()) }},
			{Head: "ACTOR", Max: 32, Cell: row.GetActor},
			{Head: "ACTION", Cell: row.GetAction},
			{Head: "SUBJECT", Max: 40, Cell: row.GetSubject},
			{Head: "DETAIL", Max: 60, Cell: row.GetDetail},
			{Head: "HASH", Wide: true, Cell: func(e row) string { return hex.EncodeToString(e.GetHash()) }},
		},
	}
}

// verified is `audit verify`.
type verified struct {
	OK      bool   `json:"ok"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Head    string `json:"head"`
	Problem string `json:"problem"`
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var file, expect, receiptFile string
	c := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "prove that the record is whole",
		Long: `Computes the hash of every entry anew, here and not at the coordinator, and checks
that each names the one before. Prints the head: the hash of the last entry. Who keeps
that elsewhere can later prove with --head that nothing before it was rewritten or cut.

With FILE (or --file) an export of 'audit export' (or 'audit list -o jsonl') is checked without
any cluster. With --checkpoint it must have the entry that a receipt of 'audit checkpoint' names,
unchanged: a record that was cut off before it, written anew or branched off fails. What came
after the newest receipt can be cut off or rewritten by whoever has the cluster, unseen.
The exit code is 1 when the chain does not hold.`,
		Example: "  vedette audit verify\n  vedette audit verify --file audit.jsonl\n  vedette audit verify --head 5f1d…\n  vedette audit verify audit.jsonl --checkpoint receipt.json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if file != "" {
					return usage("the export is named twice: %s and --file %s", args[0], file)
				}
				file = args[0]
			}
			if file == "" {
				return a.listing(func(ctx context.Context, s *session, _ []string) error {
					return verify(s.app, s.Printer, s.api.Audit(ctx, 0), expect, receiptFile)
				})(cmd, args)
			}
			return bare(func(context.Context, []string) error {
				p, err := a.printer("")
				if err != nil {
					return err
				}
				in := io.Reader(a.stdin)
				if file != "-" {
					f, err := os.Open(file)
					if err != nil {
						return usage("opening the export: %w", err)
					}
					defer func() { _ = f.Close() }()
					in = f
				}
				return verify(a, p, exported(in), expect, receiptFile)
			})(cmd, args)
		},
	}
	c.Flags().StringVar(&file, "file", "", "an export to check instead of the cluster's record; - is stdin")
	c.Flags().StringVar(&receiptFile, "checkpoint", "", "a receipt `file` of 'audit checkpoint' that the record must agree with")
	c.Flags().StringVar(&expect, "head", "", "a hash that must be in the chain: the head of an earlier check")
	return c
}

func verify(a *app, p *output.Printer, entries iter.Seq2[*operatorv1.AuditEntry, error], expect, receiptFile string) error {
	kept, err := readReceipt(receiptFile)
	if err != nil {
		return err
	}
	want, err := hex.DecodeString(expect)
	if err != nil {
		return usage("--head %q is no hash in hexadecimal", expect)
	}
	found := len(want) == 0
	witness := kept.witness()
	seen := func(yield func(*operatorv1.AuditEntry, error) bool) {
		for e, err := range entries {
			found = found || bytes.Equal(e.GetHash(), want)
			if err == nil {
				err = witness.See(e)
			}
			if !yield(e, err) {
				return
			}
		}
	}
	chain, err := client.VerifyAudit(seen)
	if err == nil {
		err = witness.Done()
	}
	if err != nil && !errors.Is(err, client.ErrAuditBroken) {
		return err
	}
	v := verified{OK: err == nil && found, From: chain.From, To: chain.To, Head: hex.EncodeToString(chain.Head)}
	switch {
	case err != nil:
		v.Problem = err.Error()
	case !found:
		v.Problem = "the chain is whole, but the head " + expect + " is not in it: what was proven then is gone"
	}
	perr := p.Show(output.Shown{Name: v.Head, Value: v, Page: func(g *output.Page) {
		if v.OK && v.To == 0 {
			g.Title(output.Green, "The record is empty.")
			return
		}
		if v.OK {
			g.Title(output.Green, fmt.Sprintf("The record is whole: entries %d to %d.", v.From, v.To))
			if v.From > 1 {
				g.Text(fmt.Sprintf("It starts at entry %d: what came before is taken on trust.", v.From))
			}
			g.Field("head", v.Head)
			if kept != nil {
				g.Field("receipt", kept.words())
			}
			return
		}
		g.Title(output.Red, "The record does NOT hold.")
		g.Text(v.Problem)
		g.Text("Keep what you have: export it from every node's operator address, compare, and restore from the last backup whose head you know.")
	}})
	if perr == nil && !v.OK {
		return exit(exitError, "%s", v.Problem)
	}
	return perr
}

// maxEntry bounds one line of an export.
const maxEntry = 4 << 20

// exported reads entries of `audit list -o jsonl` or `-o json`.
func exported(in io.Reader) iter.Seq2[*operatorv1.AuditEntry, error] {
	return func(yield func(*operatorv1.AuditEntry, error) bool) {
		buffered := bufio.NewReaderSize(in, 64<<10)
		for {
			c, err := buffered.ReadByte()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("reading the export: %w", err))
				return
			}
			if c == ' ' || c == '\n' || c == '\r' || c == '\t' {
				continue
			}
			_ = buffered.UnreadByte() // a byte was just read
			decode(buffered, c == '[', yield)
			return
		}
	}
}

// decode reads the objects of a stream, or of one array.
func decode(in io.Reader, array bool, yield func(*operatorv1.AuditEntry, error) bool) {
	limited := &io.LimitedReader{R: in, N: maxEntry}
	dec := json.NewDecoder(limited)
	dec.DisallowUnknownFields()
	if array {
		_, _ = dec.Token() // the bracket that was seen
	}
	for n := 1; ; n++ {
		limited.N = maxEntry
		if array && !dec.More() {
			if _, err := dec.Token(); err != nil {
				yield(nil, fmt.Errorf("reading the export: it is cut off after entry %d: %w", n-1, err))
			}
			return
		}
		var row shape.Audit
		err := dec.Decode(&row)
		if errors.Is(err, io.EOF) && limited.N > 0 {
			return
		}
		var e *operatorv1.AuditEntry
		if err == nil {
			e, err = row.Entry()
		}
		if err != nil {
			yield(nil, fmt.Errorf("reading the export: entry %d is not of 'vedette audit list': %w", n, err))
			return
		}
		if !yield(e, nil) {
			return
		}
	}
}
