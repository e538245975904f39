package storagetest

import (
	"sync"
	"testing"

	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/fault"
)

// Baselines is what a baseline.Store promises.
func Baselines(t *testing.T, open Open) {
	document := func(group string, version, epoch int64) baseline.Baseline {
		return baseline.Baseline{
			Group: group, State: baseline.Proposed, Version: version, Epoch: epoch, Since: kept(Start), By: "operator ☂", Terms: baseline.Terms{Since: kept(Start), MinTime: "1h", MinDevices: 2, MinShare: 0.5},
			Learned: &baseline.Summary{From: kept(Start), Devices: 3, Overflow: map[string]uint64{"peers": 7}},
			Entries: []baseline.Entry{{ID: "a", Kind: baseline.Process, Name: "café\x01<&>", Decision: baseline.Held, Source: baseline.FromLearning, Hours: []int{1}}},
			Limits:  []baseline.Limit{{Measure: "bytesIn", Max: 1 << 60, Decision: baseline.Accepted}},
			Names:   map[string][]string{"time.example": {"192.0.2.1"}}, MUD: &baseline.Maker{URL: "https://a.example/", LastUpdate: kept(Start)},
		}
	}
	put := func(b baseline.Baseline) func(*baseline.Baseline) (*baseline.Baseline, error) {
		return func(*baseline.Baseline) (*baseline.Baseline, error) { return &b, nil }
	}
	t.Run("documents come back as they were, by group", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		_, err := s.Baseline(ctx, "plant ☂")
		wantKind(t, "none", err, fault.NotFound)
		a, b := document("plant ☂", 1, 5), document("Plant", 2, 6)
		ok(t, s.UpdateBaseline(ctx, a.Group, func(stands *baseline.Baseline) (*baseline.Baseline, error) {
			if stands != nil {
				t.Errorf("%+v stands already", stands)
			}
			return &a, nil
		}))
		ok(t, s.UpdateBaseline(ctx, b.Group, put(b)))
		same(t, "one", must(s.Baseline(ctx, a.Group))(t), a)
		same(t, "all", must(s.Baselines(ctx))(t), []baseline.Baseline{b, a})
		if n := must(s.CountBaselines(ctx))(t); n != 2 {
			t.Errorf("%d are counted", n)
		}
		ok(t, s.UpdateBaseline(ctx, a.Group, func(stands *baseline.Baseline) (*baseline.Baseline, error) {
			same(t, "what stands", *stands, a)
			stands.State = baseline.Enforced
			return stands, nil
		}))
		a.State = baseline.Enforced
		same(t, "changed", must(s.Baseline(ctx, a.Group))(t), a)
		wantNo(t, "a change that refuses", s.UpdateBaseline(ctx, a.Group, func(*baseline.Baseline) (*baseline.Baseline, error) { return nil, errNo }))
		same(t, "after it", must(s.Baseline(ctx, a.Group))(t), a)
		large := a
		large.By = string(make([]byte, baseline.MaxSize))
		wantKind(t, "a large one", s.UpdateBaseline(ctx, a.Group, put(large)), fault.TooLarge)
		ok(t, s.UpdateBaseline(ctx, b.Group, func(*baseline.Baseline) (*baseline.Baseline, error) { return nil, nil }))
		same(t, "what is left", must(s.Baselines(ctx))(t), []baseline.Baseline{a})
	})
	t.Run("changes follow each other", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := s.UpdateBaseline(ctx, "g", func(stands *baseline.Baseline) (*baseline.Baseline, error) {
					if stands == nil {
						stands = &baseline.Baseline{State: baseline.Learning}
					}
					stands.Version++
					return stands, nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if b := must(s.Baseline(ctx, "g"))(t); b.Version != 8 {
			t.Errorf("version %d after 8 changes", b.Version)
		}
	})
	t.Run("lessons belong to an epoch", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		ok(t, s.SaveLearned(ctx, []baseline.Saved{{Group: "a", Epoch: 1, Data: []byte("nobody's")}}))
		_, err := s.Learned(ctx, "a")
		wantKind(t, "of no baseline", err, fault.NotFound)
		ok(t, s.UpdateBaseline(ctx, "a", put(document("a", 1, 1))))
		ok(t, s.UpdateBaseline(ctx, "b", put(document("b", 1, 1))))
		first := []baseline.Saved{{Group: "a", Epoch: 1, Data: []byte{0, 1, 0xff}}, {Group: "b", Epoch: 1, Data: []byte("b")}}
		ok(t, s.SaveLearned(ctx, first))
		same(t, "a", must(s.Learned(ctx, "a"))(t), first[0])
		ok(t, s.SaveLearned(ctx, []baseline.Saved{{Group: "a", Epoch: 1, Data: []byte("more")}}))
		same(t, "a, later", must(s.Learned(ctx, "a"))(t), baseline.Saved{Group: "a", Epoch: 1, Data: []byte("more")})
		ok(t, s.UpdateBaseline(ctx, "a", put(document("a", 2, 2))))
		_, err = s.Learned(ctx, "a")
		wantKind(t, "of an epoch that ended", err, fault.NotFound)
		ok(t, s.SaveLearned(ctx, []baseline.Saved{{Group: "a", Epoch: 1, Data: []byte("too late")}}))
		_, err = s.Learned(ctx, "a")
		wantKind(t, "what came too late", err, fault.NotFound)
		ok(t, s.SaveLearned(ctx, []baseline.Saved{{Group: "a", Epoch: 2, Data: []byte("anew")}}))
		same(t, "a, anew", must(s.Learned(ctx, "a"))(t), baseline.Saved{Group: "a", Epoch: 2, Data: []byte("anew")})
		same(t, "b", must(s.Learned(ctx, "b"))(t), first[1])
		ok(t, s.UpdateBaseline(ctx, "a", func(*baseline.Baseline) (*baseline.Baseline, error) { return nil, nil }))
		ok(t, s.UpdateBaseline(ctx, "a", put(document("a", 1, 2))))
		_, err = s.Learned(ctx, "a")
		wantKind(t, "of one that was deleted", err, fault.NotFound)
	})
}
