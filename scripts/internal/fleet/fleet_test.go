package fleet

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a grant that a sensor cannot verify is not answered, and ends the round with
// the reason.
func TestUnverifiedFailsTheRound(t *testing.T) {
	f := New(Config{})
	t.Cleanup(f.Close)
	s := &sensor{fleet: f, id: "h-1"}
	f.sensors = []*sensor{s}
	r := f.Begin(sensorv1.Action_ACTION_ISOLATE)
	if err := s.honour(&sensorv1.SignedGrant{Payload: []byte("forged")}); err != nil {
		t.Fatal(err)
	}
	if len(s.unacked) != 0 || s.answered != 0 {
		t.Error("it was answered")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := r.Wait(ctx); !errors.Is(err, grant.ErrMalformed) {
		t.Errorf("the round ended with %v, want %v", err, grant.ErrMalformed)
	}
}

// Ensure a round is over when every sensor is acknowledged for this order's grant, and
// for no earlier one.
func TestRound(t *testing.T) {
	f := New(Config{})
	t.Cleanup(f.Close)
	f.sensors = []*sensor{{fleet: f, n: 0}, {fleet: f, n: 1}}
	r := f.Begin(sensorv1.Action_ACTION_ISOLATE)
	open := func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		select {
		case <-r.done:
			return false
		default:
			_, err := r.Wait(ctx)
			return err != nil
		}
	}
	r.acknowledged(0) // of an earlier order
	r.verified(0, sensorv1.Action_ACTION_RELEASE)
	r.verified(0, sensorv1.Action_ACTION_ISOLATE)
	r.acknowledged(0)
	r.acknowledged(0) // again
	r.acknowledged(1)
	if !open() {
		t.Fatal("it is over before both have answered")
	}
	r.verified(1, sensorv1.Action_ACTION_ISOLATE)
	r.acknowledged(1)
	times, err := r.Wait(t.Context())
	if err != nil || len(times.Verified) != 2 || times.Acknowledged[0] <= 0 {
		t.Errorf("times %v, %v", times, err)
	}
}

// Ensure a quantile is a time that was measured.
func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 200 {
		times = append(times, time.Duration(i+1))
	}
	for _, tt := range []struct {
		share float64
		want  time.Duration
	}{{0, 1}, {0.5, 100}, {0.99, 198}, {1, 200}} {
		if got := Quantile(times, tt.share); got != tt.want {
			t.Errorf("Quantile(%g) = %d, want %d", tt.share, got, tt.want)
		}
	}
	if got := Quantile(nil, 0.99); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}
