package storagetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/iot"
)

// feedback takes all records from the queue and renders them as "id outcome time".
func feedback(t testing.TB, s Store) (all []string) {
	t.Helper()
	for _, d := range drain(t, s, notice.Feedback) {
		var r struct{ OriginalMessageID, EnqueuedTimeUTC, StatusCode, Description, DeviceID, DeviceGenerationID string }
		ok(t, json.Unmarshal([]byte(d), &r))
		if r.DeviceID != "d" || r.DeviceGenerationID != device("d").Generation || r.Description == "" {
			t.Errorf("the record %s is not about device d", d)
		}
		all = append(all, r.OriginalMessageID+" "+r.StatusCode+" "+r.EnqueuedTimeUTC)
	}
	return all
}

// drain takes all that a queue holds an hour before the first notice expires.
func drain(t testing.TB, s Store, q notice.Queue) (all []string) {
	t.Helper()
	for {
		b := must(s.LockNotices(t.Context(), q, 10, Start, Start.Add(time.Minute)))(t)
		if len(b.Notices) == 0 {
			return all
		}
		for _, n := range b.Notices {
			all = append(all, string(n.Document))
		}
		ok(t, s.SettleNotices(t.Context(), q, b.LockToken, iot.Completed, 10))
	}
}

// Notices is what every notice.Store promises.
func Notices(t *testing.T, open Open) {
	minute := Start.Add(time.Minute)
	id := iot.ID{Device: "d"}
	// start leaves n notices of files, called 0 to n-1, which expire an hour after Start.
	start := func(t *testing.T, n int) Store {
		s := open(t)
		create(t, s, "d")
		for i := range n {
			u := upload.Active{CorrelationID: fmt.Sprint("u", i), ID: id, Started: Start, Expires: minute}
			ok(t, s.BeginUpload(t.Context(), u, 10_000, Start))
			ok(t, s.EndUpload(t.Context(), id, u.CorrelationID, json.RawMessage(fmt.Sprint(i)), Start, Start.Add(time.Hour)))
		}
		return s
	}
	texts := func(b notice.Batch) (all []string) {
		for _, n := range b.Notices {
			all = append(all, string(n.Document))
		}
		return all
	}

	t.Run("a batch is locked and settled as a whole", func(t *testing.T) {
		s, ctx := start(t, 5), t.Context()
		one := must(s.LockNotices(ctx, notice.Files, 3, Start, minute))(t)
		two := must(s.LockNotices(ctx, notice.Files, 3, Start, minute))(t)
		same(t, "first batch", texts(one), []string{"0", "1", "2"})
		same(t, "second batch", texts(two), []string{"3", "4"})
		if !uuid.MatchString(one.LockToken) || one.LockToken == two.LockToken || !one.Notices[0].Enqueued.Equal(kept(Start)) {
			t.Errorf("lock tokens %q and %q, enqueued %v", one.LockToken, two.LockToken, one.Notices[0].Enqueued)
		}
		if none := must(s.LockNotices(ctx, notice.Files, 3, Start, minute))(t); len(none.Notices) > 0 || none.LockToken != "" {
			t.Errorf("got %v, want an empty batch", texts(none))
		}
		if other := must(s.LockNotices(ctx, notice.Feedback, 3, Start, minute))(t); len(other.Notices) > 0 {
			t.Errorf("the other queue holds %v", texts(other))
		}
		wantKind(t, "no token", s.SettleNotices(ctx, notice.Files, "", iot.Completed, 10), fault.LockLost)
		wantKind(t, "token of another queue", s.SettleNotices(ctx, notice.Feedback, one.LockToken, iot.Completed, 10), fault.LockLost)
		ok(t, s.SettleNotices(ctx, notice.Files, one.LockToken, iot.Completed, 10))
		wantKind(t, "settle twice", s.SettleNotices(ctx, notice.Files, one.LockToken, iot.Completed, 10), fault.LockLost)
		ok(t, s.SettleNotices(ctx, notice.Files, two.LockToken, iot.Rejected, 10))
		same(t, "left", drain(t, s, notice.Files), []string(nil))
	})

	t.Run("a lock lapses", func(t *testing.T) {
		s, ctx := start(t, 2), t.Context()
		one := must(s.LockNotices(ctx, notice.Files, 2, Start, minute))(t)
		two := must(s.LockNotices(ctx, notice.Files, 2, minute, minute.Add(time.Minute)))(t)
		same(t, "again", texts(two), []string{"0", "1"})
		if two.DeliveryCount != 0 {
			t.Errorf("delivery count %d, want 0: nobody abandoned them", two.DeliveryCount)
		}
		wantKind(t, "token of the lock before", s.SettleNotices(ctx, notice.Files, one.LockToken, iot.Completed, 10), fault.LockLost)
		ok(t, s.SettleNotices(ctx, notice.Files, two.LockToken, iot.Completed, 10))
	})

	t.Run("abandoned until too often", func(t *testing.T) {
		s, ctx := start(t, 1), t.Context()
		for i := range 3 {
			b := must(s.LockNotices(ctx, notice.Files, 2, Start, minute))(t)
			if len(b.Notices) != 1 || b.DeliveryCount != i {
				t.Fatalf("got %d notices, delivery count %d, want one with %d", len(b.Notices), b.DeliveryCount, i)
			}
			ok(t, s.SettleNotices(ctx, notice.Files, b.LockToken, iot.Abandoned, 3))
			wantKind(t, "abandon twice", s.SettleNotices(ctx, notice.Files, b.LockToken, iot.Abandoned, 3), fault.LockLost)
		}
		same(t, "left", drain(t, s, notice.Files), []string(nil))
	})

	t.Run("expired and too many", func(t *testing.T) {
		s, ctx := start(t, 5), t.Context()
		if n := must(s.ExpireNotices(ctx, minute, 3))(t); n != 2 {
			t.Errorf("%d notices went, want 2", n)
		}
		if b := must(s.LockNotices(ctx, notice.Files, 9, Start.Add(time.Hour), Start.Add(2*time.Hour)))(t); len(b.Notices) > 0 {
			t.Errorf("expired notices were locked: %v", texts(b))
		}
		same(t, "left", texts(must(s.LockNotices(ctx, notice.Files, 9, Start, minute))(t)), []string{"2", "3", "4"})
		if n := must(s.ExpireNotices(ctx, Start.Add(time.Hour), 3))(t); n != 3 {
			t.Errorf("%d notices expired, want 3", n)
		}
	})

	t.Run("two readers never take the same", func(t *testing.T) {
		s, ctx := start(t, 20), t.Context()
		got := make([][]string, 8)
		parallel(t, len(got), func(i int) error {
			for range 5 {
				b, err := s.LockNotices(ctx, notice.Files, 2, Start, minute)
				if err != nil {
					return err
				}
				got[i] = append(got[i], texts(b)...)
			}
			return nil
		})
		seen := map[string]bool{}
		for _, all := range got {
			for _, text := range all {
				if seen[text] {
					t.Errorf("notice %s was taken twice", text)
				}
				seen[text] = true
			}
		}
		if len(seen) != 20 {
			t.Errorf("%d notices were taken, want 20", len(seen))
		}
	})

	t.Run("feedback goes with its device, files stay", func(t *testing.T) {
		s, ctx := start(t, 1), t.Context()
		must(s.Enqueue(ctx, mail(id, "m"), 50, Start))(t)
		must(s.Purge(ctx, id, Start))(t)
		if b := must(s.LockNotices(ctx, notice.Feedback, 9, Start, Start))(t); len(b.Notices) != 1 {
			t.Fatalf("%d records of feedback, want 1", len(b.Notices))
		}
		ok(t, s.Delete(ctx, id, anyIdentity, nil))
		same(t, "feedback", drain(t, s, notice.Feedback), []string(nil))
		same(t, "files", drain(t, s, notice.Files), []string{"0"})
	})
}

// Uploads is what every upload.Store promises.
func Uploads(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	create(t, s, "d", "e")
	ok(t, s.Create(ctx, module("d", "m"), fresh))
	id, sub, other := iot.ID{Device: "d"}, iot.ID{Device: "d", Module: "m"}, iot.ID{Device: "e"}
	hour := Start.Add(time.Hour)
	active := func(name string, id iot.ID) upload.Active {
		return upload.Active{CorrelationID: name, ID: id, Blob: id.String() + "/ü&<a>.txt", Started: kept(Start), Expires: kept(hour)}
	}
	ok(t, s.BeginUpload(ctx, active("1", id), 2, Start))
	ok(t, s.BeginUpload(ctx, active("2", sub), 2, Start))
	if err := s.BeginUpload(ctx, active("3", id), 2, Start); err != upload.ErrTooMany {
		t.Errorf("one too many: got %v, want %v", err, upload.ErrTooMany)
	}
	if err := s.BeginUpload(ctx, active("3", sub), 2, Start); err != upload.ErrTooMany {
		t.Errorf("one too many for a module: got %v, want %v", err, upload.ErrTooMany)
	}
	ok(t, s.BeginUpload(ctx, active("4", other), 2, Start))
	wantKind(t, "a stranger", s.BeginUpload(ctx, active("5", iot.ID{Device: "none"}), 2, Start), fault.NotFound)
	wantKind(t, "a module that is none", s.BeginUpload(ctx, active("5", iot.ID{Device: "e", Module: "none"}), 2, Start), fault.NotFound)
	ok(t, s.BeginUpload(ctx, active("6", id), 2, hour)) // the others are over by then

	same(t, "active", must(s.ActiveUpload(ctx, sub, "2", Start))(t), active("2", sub))
	for what, f := range map[string]func(id iot.ID, name string, now time.Time) error{
		"look": func(id iot.ID, name string, now time.Time) error {
			_, err := s.ActiveUpload(ctx, id, name, now)
			return err
		},
		"end": func(id iot.ID, name string, now time.Time) error {
			return s.EndUpload(ctx, id, name, json.RawMessage(`{}`), now, hour)
		},
	} {
		wantKind(t, what+": unknown", f(id, "0", Start), fault.NotFound)
		wantKind(t, what+": another's", f(other, "1", Start), fault.NotFound)
		wantKind(t, what+": its module's", f(id, "2", Start), fault.NotFound)
		wantKind(t, what+": expired", f(id, "1", hour), fault.NotFound)
	}
	ok(t, s.EndUpload(ctx, id, "1", nil, Start, hour))
	ok(t, s.EndUpload(ctx, sub, "2", json.RawMessage(`{"a":"ü<>"}`), Start, hour))
	wantKind(t, "end twice", s.EndUpload(ctx, sub, "2", json.RawMessage(`{}`), Start, hour), fault.NotFound)
	same(t, "notices", drain(t, s, notice.Files), []string{`{"a":"ü<>"}`})
	if n := must(s.ExpireUploads(ctx, hour))(t); n != 2 {
		t.Errorf("%d uploads expired, want 2", n)
	}
	ok(t, s.BeginUpload(ctx, active("7", sub), 1, Start))
	ok(t, s.Delete(ctx, sub, anyIdentity, nil))
	ok(t, s.BeginUpload(ctx, active("8", id), 1, Start))

	t.Run("the limit holds against many requests", func(t *testing.T) {
		s := open(t)
		create(t, s, "d")
		parallel(t, 30, func(i int) error {
			err := s.BeginUpload(ctx, active(fmt.Sprint(i), id), 10, Start)
			if err == upload.ErrTooMany {
				return nil
			}
			return err
		})
		if err := s.BeginUpload(ctx, active("x", id), 10, Start); err != upload.ErrTooMany {
			t.Errorf("got %v, want ten uploads under way", err)
		}
		if err := s.BeginUpload(ctx, active("y", id), 11, Start); err != nil {
			t.Errorf("got %v, want ten uploads under way", err)
		}
	})
}

func anyIdentity(registry.Identity) error { return nil }

var fresh = twin.Twin{Version: 1, DesiredVersion: 1, ReportedVersion: 1}
