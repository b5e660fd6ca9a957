package fleet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// synthetic is how many records the recorder of a simulated host has, a minute apart; of
	// a real one's answer, what a node sees of so few is the same.
	synthetic = 400
	// rareEvery: one host in so many has the record that Rare finds.
	rareEvery = 50
)

// Rare finds one record on each of a fleet's hosts of which RareHosts tells the number.
const Rare = `process where image endswith "/nc" and parent.image endswith "/nginx"`

// Common finds so many records on every host, one less where Rare finds its.
const (
	Common     = `process where image == "/usr/bin/sed"`
	CommonRows = synthetic / 8
)

// RareHosts is on how many of the first size hosts Rare finds something.
func RareHosts(size int) int { return (size + rareEvery - 1) / rareEvery }

// question answers from a recorder that is made up as it is read.
func (s *sensor) question(stream net.Conn, q *sensorv1.Question) error {
	ask := q.GetAsk()
	if ask == nil {
		return nil // it was answered at once, and there is nothing to take back
	}
	end := &sensorv1.Answer{Id: q.GetId(), Done: true, Scanned: synthetic}
	now := time.Now()
	end.ReachesBack = now.Add(-synthetic * time.Minute).UnixNano()
	end.CoveredFrom = max(end.GetReachesBack(), ask.GetSince())
	expr, err := hunt.Parse(ask.GetExpression())
	if err != nil {
		end.Error = errors.Join(errors.New("a simulated host answers expressions alone"), err).Error()
	} else {
		m := expr.Matcher()
		for i := range synthetic {
			r := made{host: s.n, n: i}
			if at := now.Add(-time.Duration(synthetic-i) * time.Minute).UnixNano(); at >= ask.GetSince() && m.Match(r) {
				if max := ask.GetMaxRows(); max > 0 && len(end.GetRows()) >= int(max) {
					end.Limited = "rows"
					break
				}
				end.Rows = append(end.Rows, r.sighting(at))
			}
		}
	}
	return s.send(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Answer{Answer: end}})
}

// made is a record of a simulated host, all of it made of two numbers.
type made struct{ host, n int }

var images = [8]string{"/usr/bin/sed", "/usr/bin/awk", "/usr/sbin/cron", "/usr/bin/python3", "/usr/sbin/nginx", "/usr/bin/find", "/usr/bin/ssh", "/usr/bin/git"}

func (r made) rare() bool { return r.n == synthetic/2 && r.host%rareEvery == 0 }

func (r made) image() string {
	if r.rare() {
		return "/usr/bin/nc"
	}
	return images[r.n%len(images)]
}

func (r made) parent() string {
	if r.rare() {
		return "/usr/sbin/nginx"
	}
	return "/usr/bin/bash"
}

func (r made) argv() []string {
	return []string{r.image(), "-n", fmt.Sprintf("/srv/data/%d/%d", r.host, r.n)}
}

// Kind implements hunt.Record.
func (r made) Kind() hunt.Kind { return hunt.Process }

// Texts implements hunt.Record.
func (r made) Texts(f hunt.Field, out []string) []string {
	switch f {
	case hunt.Image:
		return append(out, r.image())
	case hunt.ParentImage:
		return append(out, r.parent())
	case hunt.Argument:
		return append(out, r.argv()...)
	case hunt.User:
		return append(out, "www-data")
	}
	return out
}

// Number implements hunt.Record.
func (r made) Number(f hunt.Field) (uint64, bool) {
	switch f {
	case hunt.PID:
		return uint64(1000 + r.n), true //nolint:gosec // small
	case hunt.UID:
		return 33, true
	}
	return 0, false
}

// Addresses implements hunt.Record.
func (r made) Addresses(_ hunt.Field, out []netip.Addr) []netip.Addr { return out }

func (r made) sighting(at int64) *sensorv1.Sighting {
	p := &sensorv1.Process{Pid: uint32(1000 + r.n), Start: uint64(r.n) * 60e9, StartTime: at, Image: []byte(r.image()), Uid: 33, User: "www-data"} //nolint:gosec // small
	for _, arg := range r.argv() {
		p.Argv = append(p.Argv, []byte(arg))
	}
	return &sensorv1.Sighting{Time: at, Kind: "process", Type: "exec", Process: p, ParentImage: []byte(r.parent()), ParentPid: 900, Storyline: "900.1"}
}
