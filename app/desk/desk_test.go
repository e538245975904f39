package desk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/desk"
	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/trace"
)

func TestMain(m *testing.M) { apptest.Main(m) }

func config(v *apptest.Vauban, id string) desk.Config {
	d := v.Device(id)
	return desk.Config{
		Name: id, Seed: 1, Hosts: []desk.Host{{Name: v.Hub.Hostname, Address: v.Address(v.Ports.MQTT)}}, Fast: true, Time: 5 * time.Minute, Trace: true,
		Firmware: quickstart.Config{
			ConnectionString: fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, d.DeviceID, d.Authentication.SymmetricKey.PrimaryKey), Roots: v.Roots,
		},
	}
}

// The same seed gives the same console and, byte for byte, the same trace.
func TestBoard_Repeats(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := config(v, "lamp")
	cfg.Time, cfg.Epoch = 30*time.Second, time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	play := func(seed uint64) (string, []byte) {
		var console bytes.Buffer
		cfg.Seed, cfg.Console = seed, func(p []byte) { console.Write(p) }
		b, err := desk.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return console.String(), b.Trace()
	}
	textA, traceA := play(1)
	textB, traceB := play(1)
	if textA != textB || !strings.Contains(textA, "Time: 2031-02-03T04:05:0") {
		t.Errorf("one seed, two consoles:\n%s\n%s", textA, textB)
	}
	if !bytes.Equal(traceA, traceB) {
		t.Error("one seed, two traces")
	}
	if _, traceC := play(2); bytes.Equal(traceA, traceC) {
		t.Error("another seed, the same trace")
	}
	tr, err := trace.Parse(traceA)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for _, o := range tr.Objects {
		names[o.Name]++
	}
	for _, n := range []string{"Main", "IP", "Azure IoT Client", "Azure IoT Cloud", "System Timer Thread", "nx_client"} {
		if names[n] != 1 {
			t.Errorf("%s is %d times in the trace's registry", n, names[n])
		}
	}
}

func TestBoard_Crash(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := config(v, "lamp")
	cfg.Firmware.Define = func(k *rtos.Kernel, d *quickstart.Device) {
		k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "App", Stack: k.Reserve(1024), Priority: 12, Start: rtos.AutoStart, Entry: func(uint32) {
			k.Sleep(3000)
			panic("the app is broken")
		}})
	}
	b, err := desk.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	crash, ok := errors.AsType[*board.CrashError](b.Run(t.Context()))
	if !ok || crash.Report.Thread != "App" || crash.Report.Uptime < 30*time.Second || crash.Report.Uptime > 31*time.Second {
		t.Fatalf("got %+v", crash)
	}
	if len(crash.Report.Events) == 0 {
		t.Error("the trace took the events from the crash report")
	}
	if _, err := trace.Parse(b.Trace()); err != nil {
		t.Errorf("the trace of a board that crashed: %v", err)
	}
}

// What the board's card saw is with Defender, also over a reset.
func TestBoard_Security(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := config(v, "lamp")
	cfg.Security = true
	sent := 0
	var console bytes.Buffer
	cfg.Console = func(p []byte) { console.Write(p) }
	var b *desk.Board
	cfg.Firmware.Event = func(e quickstart.Event) {
		if e.Kind == quickstart.Sent {
			if sent++; sent == 10 {
				b.Reset()
			}
		}
	}
	b, err := desk.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(console.String(), "the module is active"); n != 2 {
		t.Errorf("the module became active %d times:\n%s", n, console.String())
	}
	// Defender reads the log at its own pace.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		names := securityEvents(t, v, "lamp")
		if names["Heartbeat"] >= 3 && names["SystemInformation"] >= 3 && names["NetworkActivity"] >= 10 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Defender knows of %v", names)
		}
	}
}

// securityEvents counts what Defender has of a device, by name.
func securityEvents(t *testing.T, v *apptest.Vauban, id string) map[string]int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+v.Address(v.Ports.HTTPS)+"/api/security-events?limit=1000&device="+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+v.API.Token)
	res, err := v.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var page struct{ Events []record.Row }
	body, err := io.ReadAll(res.Body)
	if err == nil {
		err = json.Unmarshal(body, &page)
	}
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", res.Status, body, err)
	}
	names := map[string]int{}
	for _, e := range page.Events {
		names[e.Name]++
	}
	return names
}

func TestBoard_ResetAndCable(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := config(v, "lamp")
	events := map[quickstart.EventKind]int{}
	var b *desk.Board
	cfg.Firmware.Event = func(e quickstart.Event) {
		switch events[e.Kind]++; {
		case e.Kind == quickstart.Sent && events[e.Kind] == 3:
			b.Reset()
		case e.Kind == quickstart.Sent && events[e.Kind] == 6:
			if b.Plug() {
				t.Error("the cable was out before")
			}
		case e.Kind == quickstart.Lost && events[e.Kind] == 2:
			if !b.Plug() {
				t.Error("the cable is still out")
			}
		}
	}
	b, err := desk.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.Resets() != 1 || events[quickstart.Connected] != 3 || events[quickstart.Sent] < 10 || b.Uptime() < cfg.Time {
		t.Errorf("%d resets, %v in %v", b.Resets(), events, b.Uptime())
	}
	if b.Charge() <= 0 {
		t.Error("the board took no current")
	}
}

func TestBoard_IsInterrupted(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	for _, fast := range []bool{true, false} {
		cfg := config(v, fmt.Sprint("lamp-", fast))
		cfg.Fast = fast
		ctx, cancel := context.WithCancel(t.Context())
		cfg.Firmware.Event = func(e quickstart.Event) {
			if e.Kind == quickstart.Connected {
				cancel()
			}
		}
		b, err := desk.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Run(ctx); err != nil || ctx.Err() == nil {
			t.Errorf("fast %v: %v", fast, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpen_Refuses(t *testing.T) {
	t.Parallel()
	hosts := []desk.Host{{Name: "hub.example", Address: "127.0.0.1:1"}}
	for name, tt := range map[string]struct {
		cfg  desk.Config
		want string
	}{
		"packets in virtual time": {desk.Config{Hosts: hosts, Packets: true, Fast: true, Time: time.Hour}, "real time"},
		"virtual time, for ever":  {desk.Config{Hosts: hosts, Fast: true}, "how long"},
		"nobody to reach":         {desk.Config{}, "1 to 16 hosts"},
		"everybody":               {desk.Config{Hosts: make([]desk.Host, 17)}, "1 to 16 hosts"},
		"no identity":             {desk.Config{Name: "lamp", Hosts: hosts}, "connection string or a registration"},
	} {
		if _, err := desk.Open(t.Context(), tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
