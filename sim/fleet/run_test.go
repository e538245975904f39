package fleet_test

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/fleetd"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/sim/fleet"
)

func TestMain(m *testing.M) { apptest.Main(m) }

// installation is a Vauban as a fleet reaches it.
func installation(v *apptest.Vauban) *fleet.Installation {
	return &fleet.Installation{
		Hostname: v.Hub.Hostname, MQTT: v.Address(v.Ports.MQTT), HTTPS: v.Address(v.Ports.HTTPS), IDScope: v.DPS.IDScope, DPS: v.DPS.ConnectionString,
		API: v.API.URL, Token: v.API.Token, Roots: v.Roots,
	}
}

// often lets boards register as often as they are reset in virtual time.
func often(c *up.Config) { c.Registrations = fleetd.Unlimited }

func parse(t testing.TB, text string) *fleet.File {
	t.Helper()
	f, err := fleet.Parse("fleet.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const trouble = `name = "works"
duration = "12m"
seed = 11
epoch = 2025-03-01T06:00:00Z
trace = ["boiler-0002", "camera-0001"]

[[board]]
name = "boiler"
count = 4
group = "heating"
site = "hall"
drift_ppm = 50

[[board]]
name = "camera"
count = 3
group = "doors"
link = "wifi"
telemetry = "30s"
security = "20s"
reboot = true

[[site]]
name = "hall"

[[link]]
name = "wifi"
latency = "30ms"
outage_every = "6m"
outage_lasts = "1m"

[[fault]]
kind = "reset"
every = "10m"

[[fault]]
kind = "brown-out"
boards = ["boiler"]
every = "15m"

[[fault]]
kind = "panic"
share = 0.7
every = "12m"

[[fault]]
kind = "network-loss"
boards = ["boiler"]
every = "8m"
lasts = "40s"

[[attack]]
name = "exfiltration"
boards = ["boiler"]
count = 2
onset = "3m"
spread = "2m"
address = "203.0.113.9"

[[attack]]
name = "mirai"
boards = ["camera"]
count = 2
onset = "5m"

[[attack]]
name = "stolen-key"
boards = ["camera"]
count = 1
onset = "8m"
`

// quiet is an installation whose alerts nobody waits for.
func quiet(v *apptest.Vauban) *fleet.Installation {
	i := installation(v)
	i.API = ""
	return i
}

// did is what the boards did, as the report has it.
func did(t testing.TB, v *apptest.Vauban, file string) (*fleet.Report, string) {
	t.Helper()
	r, err := fleet.Run(t.Context(), fleet.Config{File: parse(t, file), To: quiet(v)})
	if err != nil {
		t.Fatal(err)
	}
	return r, text(t, r)
}

func text(t testing.TB, r *fleet.Report) string {
	t.Helper()
	data, err := json.MarshalIndent(r.Fleet, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Two runs do the same, byte for byte, whatever goes wrong in them: on one processor and on two, in other windows, and with fewer boards at a time.
func TestRun_Repeats(t *testing.T) {
	v := apptest.Start(t, often)
	_, first := did(t, v, trouble)
	for _, n := range []int{1, 2} {
		was := runtime.GOMAXPROCS(n)
		_, again := did(t, v, trouble)
		runtime.GOMAXPROCS(was)
		if d := cmp.Diff(first, again); d != "" {
			t.Errorf("with GOMAXPROCS %d: %s", n, d)
		}
	}
	r, err := fleet.Run(t.Context(), fleet.Config{File: parse(t, "window = \"700ms\"\n"+trouble), To: quiet(v), Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, text(t, r)); d != "" {
		t.Errorf("in other windows: %s", d)
	}
	if _, other := did(t, v, strings.Replace(trouble, "seed = 11", "seed = 12", 1)); other == first {
		t.Error("another seed does the same")
	}
}

// A run that shall not be faster is not.
func TestRun_Pace(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	r, _ := did(t, v, "duration = \"20s\"\nspeed = 10\nwindow = \"1s\"\n[[board]]\nname = \"lamp\"\n")
	if r.Run.Took < 2 || r.Run.Speed > 10 {
		t.Errorf("20 s of virtual time at ten times real time took %v s", r.Run.Took)
	}
}

// In real time boards with packets and boards without run beside each other, come back after a loss of the network, and end when somebody says so.
func TestRun_RealTime(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	f := parse(t, `time = "real"
duration = "10m"
[[board]]
name = "packets"
count = 2
network = "netstack"
link = "cable"
telemetry = "1s"
security = "1s"
[[board]]
name = "facade"
count = 2
telemetry = "1s"
security = "off"
[[board]]
name = "fragile"
security = "off"
reboot = true
[[link]]
name = "cable"
latency = "2ms"
loss = 0.01
[[fault]]
kind = "network-loss"
boards = ["facade"]
every = "12s"
lasts = "1s"
[[fault]]
kind = "reset"
boards = ["facade"]
every = "5s"
[[fault]]
kind = "panic"
boards = ["fragile"]
every = "2s"
`)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	r, err := fleet.Run(ctx, fleet.Config{File: f, To: installation(v), Progress: func(p fleet.Progress) {
		if p.Connects > 4 && p.Messages > 20 && p.Resets > 5 {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if g := r.Fleet.Groups; len(g) != 1 || g[0].Boards != 5 || g[0].Counts != r.Fleet.Counts {
		t.Errorf("the only group is %+v of %+v", g, r.Fleet.Counts)
	}
	for _, b := range r.Fleet.Each {
		if b.Network == fleet.Netstack && (b.Telemetry == 0 || b.Connects == 0) || b.Stopped != "" || b.Address == "" {
			t.Errorf("%+v", b)
		}
	}
	if r.Fleet.Time != "real" || r.Fleet.Reached >= r.Fleet.Duration || r.Fleet.Connects < 5 || r.Run.Latency.Count == 0 || r.Fleet.Crashes == 0 {
		t.Errorf("%+v, %+v", r.Fleet.Counts, r.Run)
	}
}

// The example is a run as people see it: a plant whose camera is found, whose honest boards are not accused, and whose crashes are told.
func TestRun_Example(t *testing.T) {
	t.Parallel()
	f, err := fleet.Load("../../examples/fleet/plant.toml")
	if err != nil {
		t.Fatal(err)
	}
	f.Duration = time.Hour // the half of it has it all
	clock := fleet.NewClock(f)
	v := apptest.Start(t, often, func(c *up.Config) { c.Clock = clock.Now })
	r, err := fleet.Run(t.Context(), fleet.Config{File: f, To: installation(v), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	d := &r.Fleet
	if d.Boards != 48 || len(d.Each) != 48 || d.Reached != d.Duration || d.Resets == 0 || d.Crashes == 0 || d.Lost == 0 || d.Failed == 0 || d.Security == 0 || len(r.Run.Crashes) == 0 {
		t.Errorf("%+v, %d crash reports", d.Counts, len(r.Run.Crashes))
	}
	sum := uint64(0)
	for _, n := range d.Series.Messages {
		sum += n
	}
	if sum != d.Telemetry+d.Security || len(d.Groups) != 2 || d.Groups[0].Boards+d.Groups[1].Boards != 48 {
		t.Errorf("the series has %d messages, the boards %d; groups %+v", sum, d.Telemetry+d.Security, d.Groups)
	}
	for _, b := range d.Each {
		switch {
		case b.Crashes > 0 && (len(b.Crashed) == 0 || b.Crashed[0].Value != "a fault of the fleet file"):
			t.Errorf("%s crashed by itself: %+v", b.ID, b.Crashed)
		case b.Telemetry == 0 || b.Connects == 0 || b.Stopped != "":
			t.Errorf("%+v", b)
		case b.ID == "boiler-0001" && (b.Trace == nil || b.Trace.Events < 1000):
			t.Errorf("the trace is %+v", b.Trace)
		}
	}
	found := map[string]int{}
	for _, x := range r.Run.Detections {
		found[x.Attack] = x.Found
	}
	if found["mirai"] != 1 || r.Run.FalseAlerts != 0 {
		t.Errorf("found %v, accused %d honest boards: %+v", found, r.Run.FalseAlerts, r.Run.Alerts)
	}
	var page strings.Builder
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<h1>plant</h1>", "48 boards", "<svg", "prefers-color-scheme", "camera-0001", "Crash reports", "a fault of the fleet file"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, other := range []string{"<script", "http://", "https://", "src=", "@import"} {
		if strings.Contains(page.String(), other) {
			t.Errorf("the page has %q: it is to need nothing else", other)
		}
	}
}

// What cannot go well is refused before anything happens.
func TestRun_Refuses(t *testing.T) {
	t.Parallel()
	f := parse(t, "epoch = 2200-01-01T00:00:00Z\nduration = \"1h\"\n[[board]]\nname = \"lamp\"\n")
	if _, err := fleet.Run(t.Context(), fleet.Config{File: f, To: &fleet.Installation{}}); err == nil || !strings.Contains(err.Error(), "in the future") {
		t.Error(err)
	}
	for _, text := range []string{
		"time = \"real\"\nduration = \"1h\"\n[[board]]\nname = \"lamp\"\nnetwork = \"netstack\"\n",
		"duration = \"1h\"\n[[board]]\nname = \"lamp\"\n[[attack]]\nname = \"stolen-key\"\ncount = 1\n",
	} {
		if _, err := fleet.Run(t.Context(), fleet.Config{File: parse(t, text), To: &fleet.Installation{MQTT: "hub.example:8883"}}); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Error(err)
		}
	}
}

// Boards that write keep what was acknowledged, whatever happens to the power, until their flash is worn out.
func TestRun_Logbook(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t, often)
	text := `duration = "1h"
epoch = 2025-03-01T06:00:00Z
[[board]]
name = "writer"
count = 2
log = "10s"
telemetry = "10m"
security = "off"
[[board]]
name = "worn"
count = 2
log = "10s"
telemetry = "10m"
security = "off"
[[fault]]
kind = "brown-out"
boards = ["writer"]
every = "2m"
[[fault]]
kind = "flash-wear"
boards = ["worn"]
every = "5m"
erases = 25000
`
	r, first := did(t, v, text)
	for _, b := range r.Fleet.Each {
		switch writer := strings.HasPrefix(b.ID, "writer"); {
		case b.Log == nil || b.Log.Written < 50:
			t.Errorf("%s wrote %+v", b.ID, b.Log)
		case writer && (b.Reasons["brown-out"] < 10 || b.Log.Lost != 0 || b.Log.Out != 0):
			t.Errorf("%s had %v and lost something: %+v", b.ID, b.Reasons, b.Log)
		case !writer && (b.Log.Failed == 0 || b.Log.Out == 0):
			t.Errorf("the flash of %s does not wear out: %+v", b.ID, b.Log)
		}
	}
	if _, again := did(t, v, text); again != first {
		t.Errorf("it does not repeat: %s", cmp.Diff(first, again))
	}
}
