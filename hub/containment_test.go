package hub_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// What each level refuses, and what it lets through, over a session and over single calls.
func TestContain_Levels(t *testing.T) {
	t.Parallel()
	for level, barred := range map[registry.Level]bool{registry.Free: false, registry.Observe: false, registry.TelemetryOnly: true} {
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			w := memory(t)
			d := w.Device(t, lamp)
			if level != registry.Free {
				if _, err := w.Contain(t.Context(), "lamp", level, "it scans", "ada"); err != nil {
					t.Fatal(err)
				}
			}
			o, _ := connect(t, w, d, iot.Opening{})
			s := o.Session
			s.Listen(iot.Methods)
			want := func(what string, err error) {
				t.Helper()
				if barred != fault.Is(err, fault.Disabled) || !barred && err != nil {
					t.Errorf("%s: %v, refused should be %t", what, err, barred)
				}
			}
			_, err := s.Twin(t.Context())
			want("read the twin", err)
			_, err = s.PatchReported(t.Context(), []byte(`{"a":1}`), 0)
			want("write the twin", err)
			v, err := w.Visit(t.Context(), w.Credentials(d))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Send(t.Context(), iot.Mail{To: lamp, Body: []byte("on")}); err != nil {
				t.Errorf("programs may always write: %v", err)
			}
			if ms, err := s.Mail(t.Context(), 1); err != nil || (len(ms) == 0) != barred {
				t.Errorf("mail over the session: %d, %v", len(ms), err)
			}
			_, _, err = v.Receive(t.Context(), time.Minute)
			want("receive", err)
			want("settle", func() error {
				err := v.Settle(t.Context(), "0/0", iot.Completed)
				if fault.Is(err, fault.LockLost) || fault.Is(err, fault.PreconditionFailed) {
					return nil // the token is nobody's
				}
				return err
			}())
			if _, err := v.BeginUpload(t.Context(), "f"); fault.Is(err, fault.Disabled) != barred {
				t.Errorf("upload: %v", err)
			}
			if _, err := w.InvokeFrom(t.Context(), lamp, lamp, command.Method{Name: "m", ResponseTimeout: 5 * time.Second}); fault.Is(err, fault.Disabled) != barred {
				t.Errorf("call of another: %v", err)
			}
			// Telemetry passes, by both ways.
			if err := v.Telemetry(t.Context(), []iot.Message{{Body: []byte("visit")}}); err != nil {
				t.Errorf("telemetry of a visit: %v", err)
			}
			s.Telemetry(&iot.Message{Body: []byte("session")}, deaf{}, 1)
			w.Messages(t, lamp, 2)
			if barred {
				_, err := w.Invoke(t.Context(), lamp, command.Method{Name: "m", ResponseTimeout: 5 * time.Second})
				if !fault.Is(err, fault.NotOnline) || !strings.Contains(fault.Public(err), "contained") {
					t.Errorf("a method: %v", err)
				}
			}
			if n := len(w.Log.Lines(0, "contained device")); (n > 0) != (level != registry.Free) {
				t.Errorf("%d lines about the device are logged", n)
			}
		})
	}
}

func TestContain_Cut(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	m := w.Device(t, iot.ID{Device: "lamp", Module: "m"})
	_, device := connect(t, w, d, iot.Opening{})
	_, module := connect(t, w, m, iot.Opening{})
	e, err := w.ContainmentEffect(t.Context(), "lamp", registry.Cut)
	if err != nil || !slices.Equal(e.Sessions, []string{"lamp", "lamp/m"}) || !slices.Contains(e.Refused, "connecting") || len(e.Allowed) > 0 || e.From != registry.Free {
		t.Fatalf("the effect is %+v, %v", e, err)
	}
	c, err := w.Contain(t.Context(), "lamp", registry.Cut, "it scans", "ada")
	if err != nil || c.Level != registry.Cut || c.By != "ada" || c.Reason != "it scans" || c.Before == nil {
		t.Fatalf("containment %+v, %v", c, err)
	}
	for _, l := range []*link{device, module} {
		if err := l.reason(); !fault.Is(err, fault.Disabled) {
			t.Errorf("closed with %v", err)
		}
	}
	for _, id := range []registry.Identity{d, m} {
		if _, err := w.Connect(t.Context(), w.Credentials(id), iot.Opening{}, &link{}); !fault.Is(err, fault.Disabled) {
			t.Errorf("connects with %v", err)
		}
		if _, err := w.Visit(t.Context(), w.Credentials(id)); !fault.Is(err, fault.Disabled) {
			t.Errorf("visits with %v", err)
		}
	}
	if got, err := w.Hub.Device(t.Context(), lamp); err != nil || got.Status != registry.Enabled || got.ETag != d.ETag {
		t.Errorf("the identity changed: %+v, %v", got, err)
	}
	if _, err := w.Contain(t.Context(), "lamp", registry.Cut, "", "ada"); !fault.Is(err, fault.AlreadyExists) {
		t.Errorf("cut twice: %v", err)
	}
	if c, err = w.Uncontain(t.Context(), "lamp", "bob"); err != nil || c.Level != registry.Free || c.Before != nil || c.By != "bob" {
		t.Errorf("undone: %+v, %v", c, err)
	}
	connect(t, w, d, iot.Opening{})
	if _, err := w.Uncontain(t.Context(), "lamp", "bob"); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("undone twice: %v", err)
	}
	for _, bad := range []error{
		func() error { _, err := w.Contain(t.Context(), "ghost", registry.Cut, "", ""); return err }(),
		func() error { _, err := w.Uncontain(t.Context(), "ghost", ""); return err }(),
		func() error { _, err := w.ContainmentEffect(t.Context(), "ghost", registry.Cut); return err }(),
	} {
		if !fault.Is(bad, fault.NotFound) {
			t.Errorf("a device that is not there: %v", bad)
		}
	}
	if _, err := w.Contain(t.Context(), "lamp", registry.Cut, strings.Repeat("x", registry.MaxReason+1), ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("a long reason: %v", err)
	}
}

// A change ends the sessions whose rights it changes, on every server, and no others.
func TestContain_LiveSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		d, other := w.Device(t, lamp), w.Device(t, iot.ID{Device: "fan"})
		o, l := connect(t, w, d, iot.Opening{})
		_, bystander := connect(t, w, other, iot.Opening{})
		if _, err := w.Contain(t.Context(), "lamp", registry.Observe, "", ""); err != nil || l.reason() != nil {
			t.Fatalf("observing: %v, closed with %v", err, l.reason())
		}
		if _, err := o.Session.Twin(t.Context()); err != nil {
			t.Error(err)
		}
		if lines := w.Log.Lines(0, "contained device"); len(lines) != 1 || lines[0].Attr("what") != "reads its twin" {
			t.Error("what an observed device does is not logged")
		}
		if _, err := w.Contain(t.Context(), "lamp", registry.TelemetryOnly, "", ""); err != nil || !fault.Is(l.reason(), fault.Unavailable) {
			t.Fatalf("held: %v, closed with %v", err, l.reason())
		}
		o.Session.End(t.Context())
		_, l = connect(t, w, d, iot.Opening{})
		// As if another server had lifted it: the next beat tells this one.
		if _, err := w.Store.Contain(t.Context(), "lamp", func(c registry.Containment) (registry.Containment, error) {
			c.Level = registry.Free
			return c, nil
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if !fault.Is(l.reason(), fault.Unavailable) {
			t.Errorf("lifted elsewhere: closed with %v", l.reason())
		}
		if err := bystander.reason(); err != nil {
			t.Errorf("another device was closed with %v", err)
		}
	})
}

// The id stays contained when its device is deleted and comes again, as provisioning makes it, until the operator lifts it.
func TestContain_DeletedAndAssigned(t *testing.T) {
	t.Parallel()
	w := memory(t)
	w.Device(t, lamp)
	if _, err := w.Contain(t.Context(), "lamp", registry.Cut, "it scans", "ada"); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteDevice(t.Context(), lamp, nil); err != nil {
		t.Fatal(err)
	}
	if e, err := w.ContainmentEffect(t.Context(), "lamp", registry.Free); err != nil || e.From != registry.Cut || e.To != registry.Free {
		t.Errorf("the effect of lifting it: %+v, %v", e, err)
	}
	if _, err := w.Assign(t.Context(), hub.Assignment{ID: lamp, Authentication: registry.Authentication{Type: registry.SAS, PrimaryKey: secret.New([]byte("primary-key-of-lamp")), SecondaryKey: secret.New([]byte("secondary-key-of-lamp"))}}); err != nil {
		t.Fatal(err)
	}
	d, err := w.Hub.Device(t.Context(), lamp)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Connect(t.Context(), w.Credentials(d), iot.Opening{}, &link{}); !fault.Is(err, fault.Disabled) {
		t.Errorf("the device made anew connects with %v", err)
	}
	if c, err := w.Hub.Containment(t.Context(), "lamp"); err != nil || c.Level != registry.Cut || c.Reason != "it scans" {
		t.Errorf("containment %+v, %v", c, err)
	}
	// It can be lifted while there is no device.
	if err := w.DeleteDevice(t.Context(), lamp, nil); err != nil {
		t.Fatal(err)
	}
	if c, err := w.Uncontain(t.Context(), "lamp", "bob"); err != nil || c.Level != registry.Free {
		t.Errorf("undone: %+v, %v", c, err)
	}
	if _, err := w.ContainmentEffect(t.Context(), "lamp", registry.Cut); !fault.Is(err, fault.NotFound) {
		t.Errorf("nothing is left: %v", err)
	}
	_, l := connect(t, w, w.Device(t, lamp), iot.Opening{})
	if err := l.reason(); err != nil {
		t.Error(err)
	}
}

// overlapping is a registry.Store to which another server comes first.
type overlapping struct {
	registry.Store
	before func()
}

func (s *overlapping) Contain(ctx context.Context, device string, change func(registry.Containment) (registry.Containment, error)) (registry.Containment, error) {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Store.Contain(ctx, device, change)
}

// What an undo ends is what stood at that moment, whatever was read before: sessions that the other server's level opened end.
func TestUncontain_Overlaps(t *testing.T) {
	t.Parallel()
	var s *overlapping
	w := hubtest.New(t, hubtest.Options{Memory: true, Registry: func(below registry.Store) registry.Store {
		s = &overlapping{Store: below}
		return s
	}})
	d := w.Device(t, lamp)
	if _, err := w.Contain(t.Context(), "lamp", registry.Observe, "", "ada"); err != nil {
		t.Fatal(err)
	}
	_, l := connect(t, w, d, iot.Opening{})
	s.before = func() {
		if _, err := w.Store.Contain(t.Context(), "lamp", func(c registry.Containment) (registry.Containment, error) {
			return registry.Containment{Device: "lamp", Level: registry.TelemetryOnly, Before: &registry.Containment{Device: "lamp", Level: registry.Observe}}, nil
		}); err != nil {
			t.Error(err)
		}
	}
	c, err := w.Uncontain(t.Context(), "lamp", "bob")
	if err != nil || c.Level != registry.Observe {
		t.Fatalf("undone: %+v, %v", c, err)
	}
	if err := l.reason(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the session was closed with %v", err)
	}
}

// Who comes through a contained device shares its level while it comes through it, also when that begins during its session.
func TestContain_Above(t *testing.T) {
	t.Parallel()
	w := memory(t)
	edge, err := w.CreateDevice(t.Context(), registry.Identity{ID: iot.ID{Device: "edge"}, Edge: true})
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := w.UpdateDevice(t.Context(), iot.ID{Device: "edge", Module: registry.EdgeHub}, nil, registry.Change{Authentication: &registry.Authentication{Type: registry.SAS}})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := w.CreateDevice(t.Context(), registry.Identity{ID: iot.ID{Device: "leaf"}, Scope: edge.Scope})
	if err != nil {
		t.Fatal(err)
	}
	through := w.Credentials(leaf)
	through.Token, through.AuthChain = w.Token(gateway), "leaf;edge"
	open := func() (iot.Session, *link) {
		t.Helper()
		l := &link{}
		o, err := w.Connect(t.Context(), through, iot.Opening{}, l)
		if err != nil {
			t.Fatal(err)
		}
		return o.Session, l
	}
	s, l := open()
	for _, step := range []struct {
		level  registry.Level
		closed bool
	}{{registry.Observe, false}, {registry.TelemetryOnly, true}, {registry.Observe, true}, {registry.Cut, true}} {
		if _, err := w.Contain(t.Context(), "edge", step.level, "", "ada"); err != nil {
			t.Fatal(err)
		}
		if closed := fault.Is(l.reason(), fault.Unavailable); closed != step.closed {
			t.Errorf("%s: the session through it was closed with %v", step.level, l.reason())
		}
		if !step.closed {
			if _, err := s.Twin(t.Context()); err != nil || len(w.Log.Lines(0, "contained device")) != 1 {
				t.Errorf("%s: %v, and what the device below does is not logged", step.level, err)
			}
			continue
		}
		s.End(t.Context())
		if step.level == registry.Cut {
			if _, err := w.Connect(t.Context(), through, iot.Opening{}, &link{}); !fault.Is(err, fault.Disabled) {
				t.Errorf("below a device that is cut: %v", err)
			}
			break
		}
		s, l = open()
		if _, err := s.Twin(t.Context()); fault.Is(err, fault.Disabled) != (step.level == registry.TelemetryOnly) {
			t.Errorf("%s: a new session reads its twin: %v", step.level, err)
		}
	}
	// By itself it may still come.
	_, own := connect(t, w, leaf, iot.Opening{})
	if err := own.reason(); err != nil {
		t.Error(err)
	}
}

type deaf struct{}

func (deaf) Acked(uint64, error) {}
