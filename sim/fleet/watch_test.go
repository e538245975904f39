package fleet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board/network/facade"
)

// An alert counts for the attack of its board that began last before it, one that began in the same moment included.
func TestWatch_Attributes(t *testing.T) {
	t.Parallel()
	epoch := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	at := func(seconds int) string { return epoch.Add(time.Duration(seconds) * time.Second).Format(time.RFC3339) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"alerts":[{"sequence":4,"deviceId":"stranger","lastSeen":%q},{"sequence":3,"deviceId":"b","lastSeen":%q},
			{"sequence":2,"deviceId":"b","lastSeen":%q},{"sequence":1,"deviceId":"b","lastSeen":%q}]}`, at(20), at(15), at(10), at(9))
	}))
	defer server.Close()
	r := &run{file: &File{}, to: &Installation{API: server.URL}, epoch: epoch, cfg: Config{Clock: &Clock{}}}
	r.clock.Store(int64(30 * time.Second))
	w := &watch{run: r, client: server.Client(), boards: map[string]*Board{"b": {Attacks: []Onset{{At: 10 * time.Second, Name: "beacon"}, {At: 14 * time.Second, Name: "mirai"}}}}}
	for range 2 { // the second time nothing is new
		if err := w.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []Seen{{Device: "b", At: 9}, {Device: "b", At: 10, Attack: "beacon"}, {Device: "b", At: 15, Attack: "mirai", After: 1}}
	if fmt.Sprint(w.seen) != fmt.Sprint(want) {
		t.Errorf("%v\nwant %v", w.seen, want)
	}
}

// A board counts once for its attack, at its first alert.
func TestDetection(t *testing.T) {
	t.Parallel()
	d := Detection{Attack: "beacon"}
	d.judge([]Seen{
		{Device: "c", Type: "y", Attack: "beacon", After: 9}, {Device: "a", Type: "x", Attack: "beacon", After: 5}, {Device: "a", Type: "z", Attack: "beacon", After: 900},
		{Device: "b", Type: "x", Attack: "beacon", After: 1}, {Device: "d", Type: "q", Attack: "mirai", After: 2}, {Device: "e", Type: "q"},
	})
	if got, want := fmt.Sprint(d), "{beacon 0 3 5 [x y z]}"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// A board is connected again when nothing keeps it from the network any more.
func TestUnit_LossesOverlap(t *testing.T) {
	t.Parallel()
	s, err := facade.New().Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.16.1.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	u := &unit{stack: s}
	for i, over := range []bool{false, false, true, true} {
		u.act(action{kind: NetworkLoss, over: over})
		if up := s.Up(); up != (i == 3) {
			t.Errorf("after %d of the moments the network is up: %v", i+1, up)
		}
	}
}
