package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// campaign is what the story reads of "vedette campaign list -o json".
type campaign struct {
	ID        string   `json:"id"`
	Status    string   `json:"status"`
	Hosts     []string `json:"hosts"`
	FirstHost string   `json:"first_host"`
	Incidents []string `json:"incidents"`
	Edges     []struct {
		From, To, Kind string
		Weight         float64
		Terms          []string
	} `json:"edges"`
}

// campaign wants the way of the attack as one campaign, with its reasons.
func (s *story) campaign(ctx context.Context) error {
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	var c campaign
	err = s.until(ctx, 15*time.Second, "one campaign over web1, app1 and db1", func(ctx context.Context) (bool, error) {
		var all []campaign
		if err := s.cluster.JSON(ctx, &all, "campaign", "list", "--status", "open"); err != nil {
			return false, err
		}
		if len(all) != 1 {
			return false, nil
		}
		c = all[0]
		return s.covers(incident{Hosts: c.Hosts}, names) && names[c.FirstHost] == "web1" && len(c.Incidents) > 0, nil
	})
	if err != nil {
		return errors.Join(err, s.show(ctx, "campaign", "list", "-o", "yaml"))
	}
	s.say.proved("one campaign %s from web1, %d incident(s)", c.ID, len(c.Incidents))
	for _, hop := range [][2]string{{"web1", "app1"}, {"app1", "db1"}} {
		if !slices.ContainsFunc(c.Edges, func(e struct {
			From, To, Kind string
			Weight         float64
			Terms          []string
		}) bool {
			return names[e.From] == hop[0] && names[e.To] == hop[1] && e.Weight > 0 && len(e.Terms) > 1
		}) {
			return errors.Join(fmt.Errorf("no edge from %s to %s", hop[0], hop[1]), s.show(ctx, "campaign", "show", c.ID))
		}
	}
	page, err := s.cluster.CLI(ctx, "campaign", "show", c.ID)
	if err != nil {
		return err
	}
	_, path, _ := strings.Cut(string(page), "\nPath\n")
	path, _, _ = strings.Cut(path, "\n\n")
	for line := range strings.Lines(path) {
		s.say.line("  %s", strings.TrimRight(line, "\n"))
	}
	picture, err := s.cluster.CLI(ctx, "campaign", "graph", c.ID, "-o", "svg")
	if err == nil && !strings.Contains(string(picture), "<svg") {
		err = errors.New("vedette campaign graph draws nothing")
	}
	return err
}
