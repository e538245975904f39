package credential

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

var lamp = iot.ID{Device: "lamp"}

func TestLimits(t *testing.T) {
	t.Parallel()
	var l limits
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	take := func(want time.Duration) {
		t.Helper()
		err := l.take(lamp, now)
		f, _ := errors.AsType[*fault.Error](err)
		if want == 0 && err != nil || want > 0 && (f == nil || f.Kind != fault.Throttled || f.RetryAfter != want) {
			t.Errorf("at %v: %v %+v, want to wait %v", now, err, f, want)
		}
	}
	for range burst {
		take(0)
	}
	take(refill)
	now = now.Add(2 * time.Minute)
	take(refill - 2*time.Minute)
	if err := l.take(iot.ID{Device: "lamp", Module: "m"}, now); err != nil {
		t.Errorf("the device's module shares its bucket: %v", err)
	}
	now = now.Add(refill - 2*time.Minute)
	take(0)
	take(refill)
	l.giveBack(lamp)
	take(0)
	take(refill)
	now = now.Add(24 * time.Hour) // no more than a burst gathers
	for range burst {
		take(0)
	}
	take(refill)
}

func TestLimits_Bound(t *testing.T) {
	t.Parallel()
	var l limits
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range maxCounted + 10 {
		if err := l.take(iot.ID{Device: fmt.Sprint(i)}, now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(l.full); n > maxCounted {
		t.Errorf("%d identities are counted, want %d at most", n, maxCounted)
	}
	now = now.Add(refill)
	if err := l.take(lamp, now); err != nil {
		t.Fatal(err)
	}
	if n := len(l.full); n != 1 {
		t.Errorf("%d identities are counted, want the one whose bucket is not full", n)
	}
	l.giveBack(iot.ID{Device: "forgotten"})
	if len(l.full) != 1 {
		t.Error("an identity that was forgotten is counted again")
	}
}
