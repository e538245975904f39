package twin_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

func TestApply_SaysWhichConfigurationWrote(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const stamp = `"$lastUpdated":"2026-01-02T03:04:05.0000000Z","$lastUpdatedVersion":`
	tw := twin.New(iot.ID{Device: "d"})
	for _, step := range []struct{ patch, by, want string }{
		{`{"a":{"b":1}}`, "c1", `{` + stamp + `2,"$lastUpdatedBy":"c1","$lastUpdatedByDigest":"x","a":{` + stamp + `2,"$lastUpdatedBy":"c1","$lastUpdatedByDigest":"x","b":{` + stamp + `2,"$lastUpdatedBy":"c1","$lastUpdatedByDigest":"x"}}}`},
		{`{"e":1}`, "", `{` + stamp + `3,"a":{` + stamp + `2,"$lastUpdatedBy":"c1","$lastUpdatedByDigest":"x","b":{` + stamp + `2,"$lastUpdatedBy":"c1","$lastUpdatedByDigest":"x"}},"e":{` + stamp + `3}}`},
		{`{"a":5}`, "", `{` + stamp + `4,"a":{` + stamp + `4},"e":{` + stamp + `3}}`}, // a value takes the place of an object, and its writer that of a configuration
	} {
		next, _, err := tw.Apply(twin.Patch{Desired: json.RawMessage(step.patch), HasDesired: true, By: step.by, ByDigest: "x"}, at)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if json.Unmarshal(next.DesiredMetadata, &got) != nil || json.Unmarshal([]byte(step.want), &want) != nil {
			t.Fatalf("%s and %s are not both JSON", next.DesiredMetadata, step.want)
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) {
			t.Errorf("after %s by %q\n got %s\nwant %s", step.patch, step.by, g, w)
		}
		tw = next
	}
}
