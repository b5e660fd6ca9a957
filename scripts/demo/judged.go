package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// disposition is what the story reads of what a sensor was told when its incident was closed.
type disposition struct {
	Host     string `json:"host"`
	State    string `json:"state"`
	Findings int    `json:"findings"`
	Taken    int    `json:"taken"`
	Failure  string `json:"failure"`
}

// judged closes what was found as what it was, and wants the sensors to have taken the word.
func (s *story) judged(ctx context.Context) error {
	var open []incident
	if err := s.cluster.JSON(ctx, &open, "incident", "list", "--status", "open"); err != nil {
		return err
	}
	if len(open) == 0 {
		return errors.New("no incident is open any more")
	}
	findings, hosts := 0, map[string]bool{}
	for _, i := range open {
		if _, err := s.cluster.CLI(ctx, "incident", "close", i.ID, "--as", "malicious", "--reason", "the demo's attack"); err != nil {
			return err
		}
		var shown struct {
			Dispositions []disposition `json:"dispositions"`
		}
		err := s.until(ctx, 15*time.Second, "the sensors to take what "+i.ID+" was", func(ctx context.Context) (bool, error) {
			if err := s.cluster.JSON(ctx, &shown, "incident", "show", i.ID); err != nil {
				return false, err
			}
			for _, d := range shown.Dispositions {
				if d.State == "failed" {
					return false, fmt.Errorf("%s refused: %s", d.Host, d.Failure)
				}
				if d.State != "done" {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			return errors.Join(err, s.show(ctx, "incident", "show", i.ID))
		}
		for _, d := range shown.Dispositions {
			if d.Taken != d.Findings {
				return errors.Join(fmt.Errorf("%s knows %d of its %d odd findings", d.Host, d.Taken, d.Findings), s.show(ctx, "incident", "show", i.ID))
			}
			findings += d.Taken
			hosts[d.Host] = true
		}
	}
	if findings == 0 {
		return errors.New("no sensor was told anything")
	}
	s.say.proved("closed as malicious: %d sensors know now that %d of their odd findings were no ordinary work", len(hosts), findings)
	return nil
}
