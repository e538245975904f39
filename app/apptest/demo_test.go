package apptest_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
)

// The demo shows without hardware what there is to see: boards that came by themselves and send, commands that are answered, and an alert about
// the camera.
func TestVauban_Demo(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t, func(c *up.Config) { c.Demo = true })
	client := v.HTTP()
	var doc struct {
		Alerts []struct{ AlertType, DeviceID, Indicator string }
	}
	found := false
	for end := time.Now().Add(2 * time.Minute); !found; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the camera raises no alert")
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.API.URL+"api/alerts", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+v.API.Token)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(res.Body).Decode(&doc)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range doc.Alerts {
			if a.DeviceID != "demo-camera" {
				t.Fatalf("an alert about an honest board: %+v", a)
			}
			found = found || a.Indicator == "203.0.113.5"
		}
	}
	for _, id := range []string{"demo-boiler", "demo-cold-room", "demo-camera"} {
		res, err := v.Service().InvokeMethod(t.Context(), id, "setLedState", json.RawMessage("true"), 20*time.Second, 20*time.Second)
		if err != nil || res.Status != 200 {
			t.Errorf("%s answers %+v, %v", id, res, err)
		}
	}
}
