package baseline

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func TestCrowd_CountsDevices(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 63, 64, 1000, 50_000} {
		c, half := crowd{size: crowdOfEntry}, crowd{size: crowdOfEntry}
		for i := range n {
			c.add(hashOf(fmt.Sprint("device-", i)))
			c.add(hashOf(fmt.Sprint("device-", i))) // again
			if i%2 == 0 {
				half.add(hashOf(fmt.Sprint("device-", i)))
			}
		}
		half.merge(&c)
		for _, got := range []int{c.count(), half.count()} {
			if off := math.Abs(float64(got - n)); n < crowdOfEntry && off != 0 || off > 0.4*float64(n) {
				t.Errorf("%d of %d devices", got, n)
			}
		}
		text, err := c.MarshalText()
		var again crowd
		if err2 := again.UnmarshalText(text); err != nil || err2 != nil || again.count() != c.count() || again.size != c.size {
			t.Errorf("saved %+v, read %+v: %v, %v", c, again, err, err2)
		}
	}
}

func TestHistogram_Quantiles(t *testing.T) {
	t.Parallel()
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("nothing has a median")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		h.add(r.Uint64N(100_000))
	}
	h.add(math.MaxUint64)
	text, err := json.Marshal(h)
	var again histogram
	if err2 := json.Unmarshal(text, &again); err != nil || err2 != nil || again.n != h.n {
		t.Fatalf("%v, %v, %d of %d", err, err2, again.n, h.n)
	}
	for q, want := range map[float64]float64{0.05: 5000, 0.5: 50_000, 0.99: 99_000} {
		if got := float64(again.quantile(q)); got < 0.93*want || got > 1.15*want {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	if again.quantile(1) != math.MaxUint64 || len(again.buckets) > 8*62 {
		t.Errorf("largest %d in %d buckets", again.quantile(1), len(again.buckets))
	}
	for v := range uint64(5000) {
		if b := bucketOf(v); largest(b) < v || b > 0 && largest(b-1) >= v {
			t.Fatalf("%d is in bucket %d, which ends at %d", v, b, largest(b))
		}
	}
	if json.Unmarshal([]byte(`[[9999,1]]`), &again) == nil {
		t.Error("a bucket that is none was read")
	}
}
