package storagetest

import (
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/host"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Silence is what a host.SilenceStore promises of devices.
func Silence(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	at := func(hours int) time.Time { return kept(Start).Add(time.Duration(hours) * time.Hour) }
	heard := func(hours int, id iot.ID) {
		ok(t, s.SetPresence(ctx, []registry.Presence{{ID: id, Activity: at(hours)}}))
	}
	create(t, s, "a", "b", "c", "never")
	off := device("off")
	off.Status = registry.Disabled
	ok(t, s.Create(ctx, off, twin.Twin{}))
	module := device("b")
	module.ID.Module = "agent"
	ok(t, s.Create(ctx, module, twin.Twin{}))
	heard(1, iot.ID{Device: "a"})
	heard(1, iot.ID{Device: "b"})
	heard(2, iot.ID{Device: "c"})
	heard(1, iot.ID{Device: "off"})
	quiet := func(what string, after, until int, from string, limit int, want ...host.Quiet) {
		t.Helper()
		got, err := s.Quiet(ctx, at(after), at(until), from, limit)
		ok(t, err)
		same(t, what, got, want)
	}
	a, b, c := host.Quiet{Device: "a", Last: at(1)}, host.Quiet{Device: "b", Last: at(1)}, host.Quiet{Device: "c", Last: at(2)}
	quiet("all", 0, 2, "", 10, a, b, c)
	quiet("until", 0, 1, "", 10, a, b)
	quiet("after", 1, 2, "", 10, c)
	quiet("a page", 0, 2, "", 2, a, b)
	quiet("the next page", 0, 2, "b", 2, c)
	all, err := s.Quiet(ctx, time.Time{}, at(2), "", 10)
	ok(t, err)
	same(t, "from the beginning of time", all, []host.Quiet{a, b, c})
	heard(5, module.ID) // a device speaks by its modules, too
	quiet("a module spoke", 0, 2, "", 10, a, c)
	got, err := s.Heard(ctx, []string{"a", "b", "off", "nobody"})
	ok(t, err)
	same(t, "heard", got, map[string]time.Time{"a": at(1), "b": at(5)})
	got, err = s.Heard(ctx, nil)
	ok(t, err)
	same(t, "heard of none", got, map[string]time.Time{})
}
