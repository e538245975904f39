package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
)

// deadLetters are those of endpoint hook, and remember what they were asked.
type deadLetters struct{ asked string }

var letter = routing.DeadLetter{
	Sequence: 17, Endpoint: "hook", Died: time.Unix(60, 0), Reason: "the webhook answered 400", Attempts: 2, Size: 99,
	Message: iot.Message{Source: iot.TwinChange, From: iot.ID{Device: "d", Module: "m"}, Enqueued: time.Unix(0, 0), Body: []byte("x")},
}

func (d *deadLetters) CountLetters(context.Context) (map[string]routing.Count, error) {
	return map[string]routing.Count{"hook": {Messages: 3, Waiting: 1, Bytes: 300, Oldest: time.Unix(60, 0)}, "an": {}}, nil
}

func (d *deadLetters) DeadLetters(_ context.Context, l routing.Letters) ([]routing.DeadLetter, error) {
	d.asked = fmt.Sprintf("%+v", l)
	return []routing.DeadLetter{letter}, nil
}

func (d *deadLetters) DeadLetter(_ context.Context, endpoint string, sequence int64) (routing.DeadLetter, error) {
	if endpoint != "hook" || sequence != 17 {
		return routing.DeadLetter{}, fault.New(fault.NotFound, "there is no such dead letter")
	}
	return letter, nil
}

func (d *deadLetters) ReplayLetters(_ context.Context, l routing.Letters) (int, error) {
	d.asked = fmt.Sprintf("replay %+v", l)
	if l.Endpoint == "gone" {
		return 0, fault.New(fault.Invalid, "the routing has no endpoint gone any more")
	}
	return 2, nil
}

func (d *deadLetters) DropLetters(_ context.Context, l routing.Letters) (int, error) {
	d.asked = fmt.Sprintf("drop %+v", l)
	return 1, nil
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const listed = `"sequence":17,"endpoint":"hook","source":"twinChangeEvents","deviceId":"d","moduleId":"m","enqueuedTime":"1970-01-01T00:00:00.0000000Z",` +
		`"deadTime":"1970-01-01T00:01:00.0000000Z","reason":"the webhook answered 400","attempts":2,"replay":false,"bytes":99`
	for _, c := range []struct {
		method, target string
		status         int
		want, asked    string
	}{
		{"GET", "", 200, `{"endpoints":[{"endpoint":"an","messages":0,"replaying":0,"bytes":0,"oldestTime":"0001-01-01T00:00:00Z"},{"endpoint":"hook","messages":3,"replaying":1,"bytes":300,"oldestTime":"1970-01-01T00:01:00.0000000Z"}]}`, ""},
		{"GET", "/hook", 200, `{"deadLetters":[{` + listed + `}]}`, "{Endpoint:hook Sequences:[] Replay:false After:0 Limit:100}"},
		{"GET", "/hook?after=9&limit=7", 200, listed, "{Endpoint:hook Sequences:[] Replay:false After:9 Limit:7}"},
		{"GET", "/hook?limit=1001", 400, "limit must be", ""},
		{"GET", "/hook?after=x", 400, "after must be", ""},
		{"GET", "/hook/messages/17", 200, listed + `,"record":{"EnqueuedTimeUtc":`, ""},
		{"GET", "/hook/messages/18", 404, "no such dead letter", ""},
		{"GET", "/hook/messages/x", 400, "is a number", ""},
		{"POST", "/hook/replay?all=true", 200, `{"messages":2}`, "replay {Endpoint:hook Sequences:[] Replay:false After:0 Limit:0}"},
		{"POST", "/hook/replay?sequence=1&sequence=2", 200, `{"messages":2}`, "replay {Endpoint:hook Sequences:[1 2] Replay:false After:0 Limit:0}"},
		{"POST", "/gone/replay?all=true", 400, "no endpoint gone", "replay {Endpoint:gone Sequences:[] Replay:false After:0 Limit:0}"},
		{"DELETE", "/hook?sequence=17", 200, `{"messages":1}`, "drop {Endpoint:hook Sequences:[17] Replay:false After:0 Limit:0}"},
		{"DELETE", "/hook", 400, "say which", ""}, // nothing is never all
		{"DELETE", "/hook?all=true&sequence=1", 400, "say which", ""},
		{"DELETE", "/hook?all=yes", 400, "say which", ""},
		{"DELETE", "/hook?all=false", 400, "say which", ""},
		{"DELETE", "/hook?sequence=one", 400, "is a number", ""},
		{"PUT", "/hook", 405, "this path takes", ""},
	} {
		w.letters.asked = ""
		rec := w.ask(t, c.method, "/api/routing/dead-letters"+c.target, "")
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) || w.letters.asked != c.asked {
			t.Errorf("%s %s: %d %s, asked for %s; want %d with %s, asked for %s", c.method, c.target, rec.Code, rec.Body, w.letters.asked, c.status, c.want, c.asked)
		}
		if !json.Valid(rec.Body.Bytes()) {
			t.Errorf("%s %s: no JSON", c.method, c.target)
		}
	}
	if !strings.Contains(w.logged.String(), "dropped=") || !strings.Contains(w.logged.String(), "replayed=") {
		t.Error("no audit record was written")
	}
}
