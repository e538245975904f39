package storagetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Batches is what a store promises about many devices in one transaction.
func Batches(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	first := func(id string, tags string) twin.Twin {
		tw := twin.New(iot.ID{Device: id})
		tw.Tags = json.RawMessage(tags)
		return tw
	}
	for _, id := range awkward {
		ok(t, s.Create(ctx, device(id), first(id, `{"site":"lyon","n":1}`)))
	}
	ok(t, s.Create(ctx, module("a", "m1"), twin.New(iot.ID{Device: "a", Module: "m1"})))
	ok(t, s.Create(ctx, module("a", "m2"), twin.New(iot.ID{Device: "a", Module: "m2"})))
	full := must(s.Identity(ctx, iot.ID{Device: "a"}))(t)

	t.Run("records see what stands, in the order asked for", func(t *testing.T) {
		ids := append([]string{"nobody", "zz"}, awkward...)
		ok(t, s.ChangeDevices(ctx, ids, func(rs []registry.Record) {
			for i, r := range rs {
				if r.Identity.ID != (iot.ID{Device: ids[i]}) || r.Exists != (i > 1) {
					t.Errorf("record %d is %v, exists %v", i, r.Identity.ID, r.Exists)
				}
				if r.Identity.ID.Device == "a" {
					same(t, "the identity", r.Identity, full)
					same(t, "its modules", r.Modules, []string{"m1", "m2"})
					same(t, "its tags", string(r.Twin.Tags), `{"site":"lyon","n":1}`)
				} else if len(r.Modules) > 0 {
					t.Errorf("%s has modules %v", r.Identity.ID, r.Modules)
				}
			}
		}))
	})

	t.Run("makes, changes, removes and leaves alone", func(t *testing.T) {
		// Enough for statements of every size.
		var ids []string
		for i := range 300 {
			ids = append(ids, fmt.Sprintf("batch-%03d", i))
		}
		ok(t, s.ChangeDevices(ctx, ids, func(rs []registry.Record) {
			for i := range rs {
				if i%10 == 9 {
					continue // left alone
				}
				id := ids[i]
				d := device(id)
				d.Edge, d.Scope, d.ParentScopes = false, "", nil
				rs[i].Identity, rs[i].Twin = d, first(id, fmt.Sprintf(`{"site":"s%d","even":%v}`, i%3, i%2 == 0))
				rs[i].Write = registry.WriteIdentity | registry.WriteTwin
			}
		}))
		d := device("batch-007")
		d.Edge, d.Scope, d.ParentScopes = false, "", nil
		same(t, "a made one", must(s.Identity(ctx, d.ID))(t), d)
		_, err := s.Identity(ctx, iot.ID{Device: "batch-009"})
		wantKind(t, "one left alone", err, fault.NotFound)
		same(t, "tagged s1", tagged(t, s, "site", "s1"), 90)

		ok(t, s.ChangeDevices(ctx, ids, func(rs []registry.Record) {
			for i := range rs {
				r := &rs[i]
				if r.Exists != (i%10 != 9) {
					t.Errorf("%s exists: %v", ids[i], r.Exists)
				}
				switch {
				case !r.Exists:
				case i%4 == 0:
					r.Write = registry.Remove
				case i%4 == 1:
					r.Identity.Status, r.Identity.StatusReason, r.Identity.StatusTime, r.Identity.ETag = registry.Disabled, "batch", Start.Add(time.Hour), "AAAB"
					r.Identity.Authentication = registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: "AB"}
					r.Write = registry.WriteIdentity
				case i%4 == 2:
					r.Twin.Tags, r.Twin.Version = json.RawMessage(`{"site":"s9"}`), 7
					r.Twin.Desired, r.Twin.DesiredMetadata, r.Twin.DesiredVersion = json.RawMessage(`{"x":1}`), json.RawMessage(`{"m":2}`), 5
					r.Write = registry.WriteTwin
				default:
					r.Identity.StatusReason, r.Twin.Tags = "not written", json.RawMessage(`{"site":"not written"}`)
				}
			}
		}))
		_, err = s.Identity(ctx, iot.ID{Device: "batch-004"})
		wantKind(t, "a removed one", err, fault.NotFound)
		_, err = s.Twin(ctx, iot.ID{Device: "batch-004"})
		wantKind(t, "its twin", err, fault.NotFound)
		d = must(s.Identity(ctx, iot.ID{Device: "batch-001"}))(t)
		if d.Status != registry.Disabled || d.StatusReason != "batch" || d.ETag != "AAAB" || !d.StatusTime.Equal(kept(Start.Add(time.Hour))) ||
			d.Authentication.Type != registry.SelfSigned || !d.Authentication.PrimaryKey.IsZero() || d.Authentication.PrimaryThumbprint != "AB" {
			t.Errorf("changed identity: %+v", d)
		}
		tw := must(s.Twin(ctx, iot.ID{Device: "batch-002"}))(t)
		if string(tw.Tags) != `{"site":"s9"}` || tw.Version != 7 || string(tw.Desired) != `{"x":1}` || string(tw.DesiredMetadata) != `{"m":2}` || tw.DesiredVersion != 5 || tw.ReportedVersion != 1 {
			t.Errorf("changed twin: %+v", tw)
		}
		if d := must(s.Identity(ctx, iot.ID{Device: "batch-003"}))(t); d.StatusReason == "not written" {
			t.Error("a record left alone was written")
		}
		same(t, "tagged s9", tagged(t, s, "site", "s9"), 75)
		same(t, "tagged not written", tagged(t, s, "site", "not written"), 0)
		same(t, "left of a dropped tag", tagged(t, s, "even", true), 0)
	})

	t.Run("modules go with their device", func(t *testing.T) {
		ok(t, s.ChangeDevices(ctx, []string{"a"}, func(rs []registry.Record) { rs[0].Write = registry.Remove }))
		_, err := s.Identity(ctx, iot.ID{Device: "a", Module: "m1"})
		wantKind(t, "a module", err, fault.NotFound)
	})

	t.Run("a batch that cannot be written leaves nothing", func(t *testing.T) {
		err := s.ChangeDevices(ctx, []string{"good", "bad"}, func(rs []registry.Record) {
			for i := range rs {
				d := device(rs[i].Identity.ID.Device)
				d.Edge, d.Scope, d.ParentScopes = false, "", nil
				if i == 1 {
					d.StatusReason = "a\x00b"
				}
				rs[i].Identity, rs[i].Twin, rs[i].Write = d, twin.New(d.ID), registry.WriteIdentity|registry.WriteTwin
			}
		})
		wantKind(t, "a NUL", err, fault.Invalid)
		_, err = s.Identity(ctx, iot.ID{Device: "good"})
		wantKind(t, "its neighbour", err, fault.NotFound)
	})

	t.Run("batches and single writes at once", func(t *testing.T) {
		var ids []string
		for i := range 40 {
			ids = append(ids, fmt.Sprintf("race-%02d", i))
		}
		parallel(t, 8, func(n int) error {
			mine := append([]string(nil), ids...)
			if n%2 == 1 { // another order, which must not deadlock
				for i, j := 0, len(mine)-1; i < j; i, j = i+1, j-1 {
					mine[i], mine[j] = mine[j], mine[i]
				}
			}
			if n == 7 {
				for _, id := range mine {
					if err := s.Create(ctx, device(id), first(id, `{}`)); err != nil && !fault.Is(err, fault.AlreadyExists) {
						return err
					}
				}
				return nil
			}
			return s.ChangeDevices(ctx, mine, func(rs []registry.Record) {
				for i := range rs {
					r := &rs[i]
					if !r.Exists {
						d := device(r.Identity.ID.Device)
						d.Edge, d.Scope, d.ParentScopes = false, "", nil
						r.Identity, r.Twin = d, first(d.ID.Device, `{}`)
					}
					r.Twin.Version++
					r.Write = registry.WriteIdentity | registry.WriteTwin
				}
			})
		})
		for _, id := range ids {
			if v := must(s.Twin(ctx, iot.ID{Device: id}))(t).Version; v < 8 || v > 9 {
				t.Errorf("%s has version %d: a write was lost", id, v)
			}
		}
	})

	t.Run("Records walks devices and modules in order", func(t *testing.T) {
		s := open(t)
		var want []string
		for _, id := range []string{"A", "a", "a-b", "b"} {
			ok(t, s.Create(ctx, device(id), first(id, `{"of":"`+id+`"}`)))
			want = append(want, id)
			if id == "a" {
				ok(t, s.Create(ctx, module(id, "m"), twin.New(iot.ID{Device: id, Module: "m"})))
				want = append(want, "a/m")
			}
		}
		var got []string
		for after := (iot.ID{}); ; {
			rs := must(s.Records(ctx, after, 2))(t)
			for _, r := range rs {
				got = append(got, r.Identity.ID.String())
				after = r.Identity.ID
				if r.Identity.ID.Module == "" && string(r.Twin.Tags) != `{"of":"`+r.Identity.ID.Device+`"}` {
					t.Errorf("%s has the twin %+v", r.Identity.ID, r.Twin)
				}
				if string(r.Identity.Authentication.PrimaryKey.Reveal()) != "primary-of-"+r.Identity.ID.Device {
					t.Errorf("%s has no key", r.Identity.ID)
				}
			}
			if len(rs) < 2 {
				break
			}
		}
		same(t, "order", got, want)
	})
}

// tagged counts devices by a tag, with the index.
func tagged(t *testing.T, s Store, tag string, value any) int {
	t.Helper()
	text, err := json.Marshal(value)
	ok(t, err)
	q, err := query.Parse("SELECT * FROM devices WHERE tags." + tag + " = " + string(replaceQuotes(text)))
	ok(t, err)
	n := 0
	ok(t, s.Scan(t.Context(), fleet.Scan{Where: q.Where}, func(r *fleet.Row) error { n++; return nil }))
	return n
}

// replaceQuotes makes JSON text a constant of the query language.
func replaceQuotes(b []byte) []byte {
	for i := range b {
		if b[i] == '"' {
			b[i] = '\''
		}
	}
	return b
}

// Transfers is what a store promises about imports and exports.
func Transfers(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	job := func(id string) transfer.Job {
		return transfer.Job{ID: id, Status: transfer.Enqueued, Created: kept(Start), Request: transfer.Request{
			Type: transfer.Import, Input: "https://h/in?sig=secret", Output: "https://h/out?sig=secret", InputBlob: "a", OutputBlob: "b", ExcludeKeys: true, ConfigurationsBlob: "c",
		}}
	}
	_, err := s.Transfer(ctx, "one")
	wantKind(t, "an unknown job", err, fault.NotFound)
	made := must(s.CreateTransfer(ctx, job("one")))(t)
	want := job("one")
	want.Sequence = made.Sequence
	same(t, "made", made, want)
	same(t, "read", must(s.Transfer(ctx, "one"))(t), want)

	t.Run("one is unfinished at a time", func(t *testing.T) {
		_, err := s.CreateTransfer(ctx, job("two"))
		if err != transfer.ErrBusy {
			t.Errorf("got %v", err)
		}
		_, err = s.UpdateTransfer(ctx, "one", func(j transfer.Job) (transfer.Job, error) {
			j.Status, j.Progress, j.Failure, j.Began, j.End = transfer.Running, 40, "why", Start.Add(time.Second), Start.Add(time.Minute)
			j.Request, j.ID, j.Created = transfer.Request{}, "other", time.Time{}
			return j, nil
		})
		ok(t, err)
		want.Status, want.Progress, want.Failure, want.Began, want.End = transfer.Running, 40, "why", kept(Start.Add(time.Second)), kept(Start.Add(time.Minute))
		same(t, "updated", must(s.Transfer(ctx, "one"))(t), want)
		if _, err = s.CreateTransfer(ctx, job("two")); err != transfer.ErrBusy {
			t.Errorf("beside a running one: %v", err)
		}
		_, err = s.UpdateTransfer(ctx, "one", func(j transfer.Job) (transfer.Job, error) { return j, errNo })
		wantNo(t, "an update", err)
		_, err = s.UpdateTransfer(ctx, "nobody", func(j transfer.Job) (transfer.Job, error) { return j, nil })
		wantKind(t, "an unknown job", err, fault.NotFound)
		_, err = s.UpdateTransfer(ctx, "one", func(j transfer.Job) (transfer.Job, error) {
			j.Status = transfer.Completed
			return j, nil
		})
		ok(t, err)
		ok(t, errOf(s.CreateTransfer(ctx, job("two"))))
	})

	t.Run("lists", func(t *testing.T) {
		ids := func(unfinished bool) (ids []string) {
			for _, j := range must(s.Transfers(ctx, unfinished))(t) {
				ids = append(ids, j.ID)
			}
			return ids
		}
		same(t, "all, the newest first", ids(false), []string{"two", "one"})
		same(t, "unfinished", ids(true), []string{"two"})
		ok(t, s.ForgetTransfers(ctx, Start.Add(time.Minute)))
		same(t, "none is old", ids(false), []string{"two", "one"})
		ok(t, s.ForgetTransfers(ctx, Start.Add(time.Hour)))
		same(t, "one is old", ids(false), []string{"two"})
	})

	t.Run("one of many is made", func(t *testing.T) {
		s := open(t)
		won := make([]bool, 10)
		parallel(t, len(won), func(i int) error {
			_, err := s.CreateTransfer(ctx, job(fmt.Sprint("race-", i)))
			won[i] = err == nil
			if err == transfer.ErrBusy {
				return nil
			}
			return err
		})
		n := 0
		for _, w := range won {
			if w {
				n++
			}
		}
		same(t, "winners", n, 1)
	})
}

func errOf[T any](_ T, err error) error { return err }
