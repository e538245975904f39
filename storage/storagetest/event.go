package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// fact is an event that says what.
func fact(what string, a ...any) []iot.Message {
	return []iot.Message{{Source: iot.TwinChange, From: iot.ID{Device: "d"}, Enqueued: kept(Start), Body: fmt.Appendf(nil, what, a...)}}
}

// Facts is what every store promises about the events that its writes tell of.
func Facts(t *testing.T, open Open) {
	d, m := iot.ID{Device: "d"}, iot.ID{Device: "d", Module: "m"}
	yes, no := true, false
	s, ctx := open(t), t.Context()
	var last int64
	// told takes all facts and renders their bodies.
	told := func(t *testing.T) string {
		t.Helper()
		var all []string
		for {
			fs := must(s.Facts(ctx, 3))(t)
			if len(fs) == 0 {
				return strings.Join(all, " ")
			}
			var sequences []int64
			for _, f := range fs {
				if f.Sequence <= last {
					t.Errorf("fact %d comes behind %d", f.Sequence, last)
				}
				last = f.Sequence
				sequences = append(sequences, f.Sequence)
				ok(t, telemetry.Decode(0, f.Data, func(m *iot.Message) error {
					if m.Source != iot.TwinChange || m.From != d || m.Enqueued != kept(Start) {
						t.Errorf("a fact came back as %+v", m)
					}
					all = append(all, string(m.Body))
					return nil
				}))
			}
			ok(t, s.ForgetFacts(ctx, sequences))
		}
	}
	first := twin.New(d)
	first.Facts = slices.Concat(fact("made"), fact("with"), fact("its"), fact("modules"))
	ok(t, s.Create(ctx, device("d"), first))
	wantKind(t, "second creation", s.Create(ctx, device("d"), first), fault.AlreadyExists)
	same(t, "told of a creation", told(t), "made with its modules")

	tw := must(s.UpdateTwin(ctx, d, func(t twin.Twin) (twin.Twin, error) {
		t.Version++
		t.Facts = fact("version %d", t.Version)
		return t, nil
	}))(t)
	same(t, "facts that a write returns", tw.Facts, []iot.Message(nil))
	same(t, "facts that a read returns", must(s.Twin(ctx, d))(t).Facts, []iot.Message(nil))
	_, err := s.UpdateTwin(ctx, d, func(t twin.Twin) (twin.Twin, error) {
		t.Facts = fact("never")
		return t, errNo
	})
	wantNo(t, "refused write", err)
	same(t, "told of a write", told(t), "version 3")

	presence := func(id iot.ID, node string, connected *bool, what string) {
		t.Helper()
		ok(t, s.SetPresence(ctx, []registry.Presence{{ID: id, Node: node, Connected: connected, Time: Start, Facts: fact("%s", what)}}))
	}
	presence(d, "a", &no, "not-there-yet")
	presence(d, "a", &yes, "connected")
	presence(d, "b", &yes, "taken-over")
	presence(d, "a", &no, "late")
	presence(iot.ID{Device: "nobody"}, "b", &yes, "unknown")
	ok(t, s.SetPresence(ctx, []registry.Presence{{ID: d, Activity: Start, Facts: fact("activity")}}))
	presence(d, "b", &no, "left")
	presence(d, "b", &no, "left-twice")
	same(t, "told of presence: only what changes it", told(t), "connected left")

	ok(t, s.Create(ctx, module("d", "m"), twin.New(m)))
	presence(d, "a", &yes, "d")
	presence(m, "a", &yes, "m")
	lost := func(id iot.ID) []iot.Message { return fact("lost:%s", id) }
	ok(t, s.ResetPresence(ctx, "b", Start, lost))
	ok(t, s.ResetPresence(ctx, "a", Start, lost))
	ok(t, s.ResetPresence(ctx, "a", Start, lost))
	same(t, "told when a server starts again", told(t), "d m lost:d lost:d/m")
	presence(m, "a", &yes, "m")
	must(s.KeepNode(ctx, "a", Start, Start.Add(-time.Hour), lost))(t)
	must(s.KeepNode(ctx, "b", Start.Add(time.Hour), Start.Add(time.Minute), lost))(t)
	same(t, "told when a server dies", told(t), "m lost:d/m")

	gone := func(d registry.Identity, t twin.Twin) []iot.Message {
		return fact("gone:%s:%s:v%d", d.ID, d.Generation[:3], t.Version)
	}
	wantNo(t, "refused deletion", s.Delete(ctx, d, func(registry.Identity) error { return errNo }, gone))
	same(t, "told of a deletion that was refused", told(t), "")
	ok(t, s.Delete(ctx, d, func(registry.Identity) error { return nil }, gone))
	same(t, "told of a deletion", told(t), "gone:d/m:638:v2 gone:d:638:v3")

	ok(t, s.CreateJob(ctx, job.Job{ID: "j", Type: job.UpdateTwin, Status: job.Running, Start: Start}, 10))
	ok(t, s.AddRows(ctx, job.Job{ID: "j", Type: job.UpdateTwin}, []iot.ID{{Device: "a"}, {Device: "b"}, {Device: "c"}, {Device: "e"}}, Start))
	rows := must(s.PendingRows(ctx, "j", iot.ID{}, 10))(t)
	tell := func(r job.Row) []iot.Message { return fact("%s:%s:%s", r.ID, r.Status, r.Code) }
	rows[0].Status, rows[0].Tell = job.RowCompleted, tell
	rows[1].Status = job.RowRunning
	ok(t, s.SaveRows(ctx, rows[:2]))
	ok(t, s.AbortRows(ctx, job.Row{Status: job.RowFailed, Code: "503001", Tell: tell}))
	must(s.UpdateJob(ctx, "j", &job.Row{Status: job.RowCanceled, Tell: tell}, func(j job.Job) (job.Job, error) { return j, nil }))(t)
	same(t, "told of a job", told(t), "a:completed: b:failed:503001 c:canceled: e:canceled:")
}

// DeadLetters is what every routing.DeadLetterStore promises.
func DeadLetters(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	letter := func(n int, size int) *iot.Message {
		return &iot.Message{
			Sequence: uint64(n), Source: iot.TwinChange, From: iot.ID{Device: "d", Module: "m"}, Enqueued: kept(Start), Generation: "g",
			System: []bag.Property{{Name: "content-type", Value: "x"}}, Properties: []bag.Property{{Name: "n", Null: true}}, Body: make([]byte, size),
		}
	}
	bury := func(endpoint, reason string, at time.Time, keep int, bytes int64, ms ...*iot.Message) int {
		t.Helper()
		return must(s.Bury(ctx, endpoint, ms, slices.Repeat([]string{reason}, len(ms)), at, keep, bytes))(t)
	}
	list := func(l routing.Letters) string {
		t.Helper()
		var all []string
		l.Limit = 100
		for _, d := range must(s.DeadLetters(ctx, l))(t) {
			all = append(all, fmt.Sprintf("%d:%s:%d:%v", d.Message.Sequence, d.Reason, d.Attempts, d.Replay))
		}
		return strings.Join(all, " ")
	}
	const big = 1 << 30
	same(t, "none yet", list(routing.Letters{Endpoint: "e"}), "")
	if n := bury("e", "no", Start, 100, big, letter(1, 10), letter(2, 10), letter(3, 10)) + bury("f", "other", Start, 100, big, letter(1, 10)); n != 0 {
		t.Errorf("%d letters went for no reason", n)
	}
	same(t, "in order", list(routing.Letters{Endpoint: "e"}), "1:no:1:false 2:no:1:false 3:no:1:false")
	ds := must(s.DeadLetters(ctx, routing.Letters{Endpoint: "e", Limit: 2}))(t)
	if len(ds) != 2 || list(routing.Letters{Endpoint: "e", After: ds[1].Sequence}) != "3:no:1:false" {
		t.Errorf("pages do not join: %v", ds)
	}
	whole := must(s.DeadLetter(ctx, "e", ds[0].Sequence))(t)
	same(t, "a whole letter", whole.Message, *letter(1, 10))
	if whole.Died != kept(Start) || whole.Size < 10 || whole.Endpoint != "e" {
		t.Errorf("the letter is %+v", whole)
	}
	_, err := s.DeadLetter(ctx, "f", ds[0].Sequence)
	wantKind(t, "the letter of another endpoint", err, fault.NotFound)

	one := routing.Letters{Endpoint: "e", Sequences: []int64{ds[1].Sequence}}
	same(t, "marked", must(s.ReplayLetters(ctx, one))(t), 1)
	same(t, "those that wait", list(routing.Letters{Endpoint: "e", Replay: true}), "2:no:1:true")
	same(t, "one that comes again", bury("e", "again", Start.Add(time.Minute), 100, big, letter(2, 10)), 0)
	same(t, "after it came again", list(routing.Letters{Endpoint: "e"}), "1:no:1:false 2:again:2:false 3:no:1:false")
	same(t, "all marked", must(s.ReplayLetters(ctx, routing.Letters{Endpoint: "e"}))(t), 3)
	counts := must(s.CountLetters(ctx))(t)
	if e, f := counts["e"], counts["f"]; e.Messages != 3 || e.Waiting != 3 || e.Bytes < 30 || e.Oldest != kept(Start) || f.Messages != 1 || f.Waiting != 0 || len(counts) != 2 {
		t.Errorf("counted %+v", counts)
	}
	same(t, "dropped one", must(s.DropLetters(ctx, one))(t), 1)
	same(t, "dropped it twice", must(s.DropLetters(ctx, one))(t), 0)
	same(t, "dropped none", must(s.DropLetters(ctx, routing.Letters{Endpoint: "e", Sequences: []int64{}}))(t), 0)
	same(t, "left", list(routing.Letters{Endpoint: "e"}), "1:no:1:true 3:no:1:true")

	same(t, "over the number", bury("e", "no", Start, 2, big, letter(4, 10)), 1)
	same(t, "the oldest went", list(routing.Letters{Endpoint: "e"}), "3:no:1:true 4:no:1:false")
	same(t, "over the bytes", bury("e", "no", Start, 100, 5000, letter(5, 3000), letter(6, 3000)), 3)
	same(t, "the newest stays", list(routing.Letters{Endpoint: "e"}), "6:no:1:false")
	same(t, "dropped all", must(s.DropLetters(ctx, routing.Letters{Endpoint: "e"}))(t), 1)
	same(t, "another endpoint's", list(routing.Letters{Endpoint: "f"}), "1:other:1:false")
}
