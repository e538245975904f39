package storagetest

import (
	"bytes"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/fault"
)

// Intel is what every feed.Store promises.
func Intel(t *testing.T, open Open) {
	config := func(name string) feed.Config {
		return feed.Config{Name: name, Format: "list", URL: "https://feeds.example/☂", Headers: map[string]string{"Auth-Key": "s3cret"}, Password: "p", Interval: "30m"}
	}
	put := func(f feed.Feed) func(*feed.Feed) (feed.Feed, error) {
		return func(*feed.Feed) (feed.Feed, error) { return f, nil }
	}
	state := feed.State{LastAttempt: kept(Start).UTC(), Error: "no ☂", ETag: `W/"1"`, Revision: 7, Indicators: 3, Problems: []string{"a", "b"}}

	t.Run("feeds and their states", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		_, err := s.Feed(ctx, "a")
		wantKind(t, "a missing feed", err, fault.NotFound)
		wantKind(t, "deleting it", s.DeleteFeed(ctx, "a"), fault.NotFound)
		wantKind(t, "refreshing it", s.WantFeed(ctx, "a", Start, true), fault.NotFound)
		wantKind(t, "its state", s.SetFeedState(ctx, "a", 1, state, time.Time{}), fault.PreconditionFailed)

		version := must(s.IntelVersion(ctx))(t)
		moved := func(what string) {
			t.Helper()
			now := must(s.IntelVersion(ctx))(t)
			if now == version {
				t.Errorf("%s does not change the version", what)
			}
			version = now
		}
		ok(t, s.PutFeed(ctx, "b", func(old *feed.Feed) (feed.Feed, error) {
			if old != nil {
				t.Errorf("%+v stands already", old)
			}
			return feed.Feed{Config: config("b")}, nil
		}))
		moved("a new feed")
		ok(t, s.PutFeed(ctx, "a", put(feed.Feed{Config: config("a")})))
		wantNo(t, "a change that refuses", s.PutFeed(ctx, "a", func(*feed.Feed) (feed.Feed, error) { return feed.Feed{}, errNo }))
		first := must(s.Feed(ctx, "a"))(t).Generation
		want := feed.Feed{Config: config("a"), Generation: first}
		same(t, "kept", must(s.Feed(ctx, "a"))(t), want)
		same(t, "listed", must(s.Feeds(ctx))(t), []feed.Feed{want, {Config: config("b"), Generation: must(s.Feed(ctx, "b"))(t).Generation}})

		moved("another feed")
		ok(t, s.WantFeed(ctx, "a", Start, true))
		moved("a wish")
		want.Wanted, want.Accept = kept(Start), true
		same(t, "wanted", must(s.Feed(ctx, "a"))(t), want)
		ok(t, s.SetFeedState(ctx, "a", first, state, Start.Add(-time.Second)))
		moved("a state")
		want.State = state
		same(t, "a wish that came while it was fetched", must(s.Feed(ctx, "a"))(t), want)
		ok(t, s.SetFeedState(ctx, "a", first, state, kept(Start)))
		want.Wanted, want.Accept = time.Time{}, false
		same(t, "a wish that was met", must(s.Feed(ctx, "a"))(t), want)

		next := want
		next.Interval = "1h"
		ok(t, s.PutFeed(ctx, "a", put(next)))
		if next.Generation = must(s.Feed(ctx, "a"))(t).Generation; next.Generation == first {
			t.Error("a changed configuration is of the same generation")
		}
		same(t, "changed", must(s.Feed(ctx, "a"))(t), next)
		wantKind(t, "the state of an old configuration", s.SetFeedState(ctx, "a", first, feed.State{}, time.Time{}), fault.PreconditionFailed)
		same(t, "after it", must(s.Feed(ctx, "a"))(t), next)
		moved("a change")
		ok(t, s.DeleteFeed(ctx, "a"))
		moved("a deletion")
		if all := must(s.Feeds(ctx))(t); len(all) != 1 {
			t.Errorf("%d feeds are left", len(all))
		}
	})

	t.Run("contents", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		read := func(revision int64) string {
			t.Helper()
			var all bytes.Buffer
			ok(t, s.FeedContent(ctx, "a", revision, func(p []byte) error { all.Write(p); return nil }))
			return all.String()
		}
		wantKind(t, "content of a missing feed", s.AddFeedContent(ctx, "a", 1, 0, []byte("x")), fault.NotFound)
		ok(t, s.PutFeed(ctx, "a", put(feed.Feed{Config: config("a")})))
		for n, p := range []string{"one\x00", "two\xff", "three"} {
			ok(t, s.AddFeedContent(ctx, "a", 1, n, []byte(p)))
			ok(t, s.AddFeedContent(ctx, "a", 2, n, []byte("other")))
		}
		ok(t, s.AddFeedContent(ctx, "a", 1, 1, []byte("2"))) // again, after a failure
		if got := read(1); got != "one\x002three" {
			t.Errorf("content %q", got)
		}
		wantNo(t, "a reader that stops", s.FeedContent(ctx, "a", 1, func([]byte) error { return errNo }))
		ok(t, s.DropFeedContent(ctx, "a", 2))
		if a, b := read(1), read(2); a != "" || b != "otherotherother" {
			t.Errorf("after the old was dropped: %q and %q", a, b)
		}
		ok(t, s.PutFeed(ctx, "a", put(feed.Feed{Config: config("a"), State: feed.State{Revision: 2}})))
		if got := read(2); got == "" {
			t.Error("a change that keeps the revision dropped it")
		}
		ok(t, s.DeleteFeed(ctx, "a"))
		ok(t, s.PutFeed(ctx, "a", put(feed.Feed{Config: config("a")})))
		if got := read(2); got != "" {
			t.Errorf("a new feed of the name has %q", got)
		}
	})

	t.Run("exemptions", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		wantKind(t, "a missing one", s.DeleteExemption(ctx, "192.0.2.1"), fault.NotFound)
		one := feed.Exemption{Value: "192.0.2.1", Note: "ours ☂", Added: kept(Start)}
		two := feed.Exemption{Value: "10.0.0.0/8", Added: kept(Start)}
		before := must(s.IntelVersion(ctx))(t)
		ok(t, s.PutExemption(ctx, one))
		ok(t, s.PutExemption(ctx, two))
		one.Note = "theirs"
		ok(t, s.PutExemption(ctx, feed.Exemption{Value: one.Value, Note: one.Note, Added: Start.Add(time.Hour)}))
		same(t, "listed", must(s.Exemptions(ctx))(t), []feed.Exemption{two, one})
		ok(t, s.DeleteExemption(ctx, one.Value))
		same(t, "after a deletion", must(s.Exemptions(ctx))(t), []feed.Exemption{two})
		if now := must(s.IntelVersion(ctx))(t); now < before+4 {
			t.Errorf("the version went from %d to %d", before, now)
		}
	})

	t.Run("of many that change a feed at once each sees the one before", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		parallel(t, 20, func(int) error {
			return s.PutFeed(ctx, "a", func(old *feed.Feed) (feed.Feed, error) {
				next := feed.Feed{Config: config("a")}
				if old != nil {
					next.State.Indicators = old.State.Indicators + 1
				}
				return next, nil
			})
		})
		if f := must(s.Feed(ctx, "a"))(t); f.State.Indicators != 19 {
			t.Errorf("after 20 changes: %d, generation %d", f.State.Indicators, f.Generation)
		}
	})
}
