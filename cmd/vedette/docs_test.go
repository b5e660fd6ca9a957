package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/live"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
)

// Ensure docs/cli.md names every command, every JSON key and every exit code.
func TestReferenceIsComplete(t *testing.T) {
	raw, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	has := func(what, text string) {
		if !strings.Contains(doc, text) {
			t.Errorf("docs/cli.md says nothing of %s %s", what, text)
		}
	}
	root := newApp(os.Stdin, os.Stdout, os.Stderr).root()
	each(root, func(c *cobra.Command) {
		if c.Runnable() && !c.HasSubCommands() {
			has("command", strings.TrimPrefix(c.CommandPath(), "vedette "))
		}
	})
	for _, v := range []any{
		shape.HostDetail{}, shape.Finding{}, shape.IncidentDetail{}, shape.CampaignDetail{}, shape.Isolation{}, shape.Audit{}, shape.Member{}, shape.Status{}, shape.SignedNodes{}, shape.NodeAddress{},
		shape.History{}, shape.BaselineRow{}, shape.BaselineDifference{}, shape.Role{}, shape.Pack{}, shape.Unlearn{}, shape.RollOut{}, packRow{}, shape.Sighting{}, shape.Intent{}, shape.IntentRow{}, shape.Difference{}, shape.Verdict{}, shape.Score{},
		shape.Drill{}, shape.DrillResult{}, shape.DrillReport{}, shape.RuleNote{}, shape.RuleTest{}, shape.RuleSet{},
		live.Record{}, result{}, token{}, madeOperator{}, rootInspected{}, operatorRow{}, receipt{}, offlineToken{}, build{}, bundleMade{}, rootRow{}, rootStatus{}, inspected{}, contextRow{}, verified{},
	} {
		for _, key := range jsonKeys(reflect.TypeOf(v)) {
			has("JSON key", "`"+key+"`")
		}
	}
	for _, code := range []string{"0", "1", "2", "3", "4", "5", "6", "7", "130"} {
		has("exit code", "| "+code+" |")
	}
}

// Ensure every command has an example, and every flag says what it is for.
func TestHelp(t *testing.T) {
	each(newApp(os.Stdin, os.Stdout, os.Stderr).root(), func(c *cobra.Command) {
		if c.HasParent() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s says nothing", c.CommandPath(), f.Name)
			}
		})
	})
}

// each visits every command that an operator sees.
func each(c *cobra.Command, visit func(*cobra.Command)) {
	if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
		return
	}
	visit(c)
	for _, sub := range c.Commands() {
		each(sub, visit)
	}
}

func jsonKeys(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range t.Fields() {
		if key := f.Tag.Get("json"); key != "" {
			keys = append(keys, key)
		}
		keys = append(keys, jsonKeys(f.Type)...)
	}
	return keys
}
