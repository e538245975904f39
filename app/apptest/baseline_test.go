package apptest_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/mud"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const jsonTopic = "devices/%s/messages/events/%%24.ifid=urn%%3Aazureiot%%3ASecurity%%3ASecurityAgent%%3A1"

// connected is a message of JSON 1.0 about a connection of a device.
func connected(address string, port int) []byte {
	return fmt.Appendf(nil, `{"AgentVersion":"0.0.1","AgentId":"8a1ad3a5-7a3c-4b40-9d6e-1f5f4c2f9a10","MessageSchemaVersion":"1.0","Events":[{"EventType":"Security","Category":"Triggered",
		"Name":"ConnectionCreate","IsEmpty":false,"PayloadSchemaVersion":"1.0","Id":"8a1ad3a5-7a3c-4b40-9d6e-1f5f4c2f9a11","TimestampUTC":"2026-01-27T15:48:52","TimestampLocal":"2026-01-27T15:48:52",
		"Payload":[{"Executable":"/usr/bin/pumpd","ProcessId":1,"CommandLine":"","RemoteAddress":%q,"RemotePort":"%d","LocalAddress":"10.0.0.1","LocalPort":"50000","Direction":"Out","Protocol":"tcp"}]}]}`, address, port)
}

func activity(device string, flows ...string) []byte {
	e := secmsg.Event{Name: "NetworkActivity"}
	for _, f := range flows {
		e.Flows = append(e.Flows, secmsg.Flow{Local: netip.MustParseAddrPort("10.0.0.1:50000"), Remote: netip.MustParseAddrPort(f), Protocol: "TCP", BytesIn: 1, BytesOut: 2})
	}
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: device, Events: []secmsg.Event{e}})
}

// A group learns from both kinds of agents, people read what it learned and enforce it, and deviations explain themselves; over a restart, and
// with what makers say of their devices.
func TestVauban_Baselines(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-35")
	v := apptest.Start(t)
	const path = "/api/baselines/plant"
	if status := operate(t, v, "POST", path+"/learn", `{"minTime":"1ms"}`, nil); status != 200 {
		t.Fatalf("learn: %d", status)
	}
	clients := map[string]*mqtttest.Client{}
	join := func() {
		for i := range 4 {
			id := fmt.Sprint("pump-", i)
			d, err := v.Service().Device(t.Context(), id)
			if err != nil {
				d = v.Device(id)
				if _, err := v.Service().PatchTwin(t.Context(), id, []byte(`{"tags":{"SecurityGroup":"plant"}}`), ""); err != nil {
					t.Fatal(err)
				}
			}
			clients[id], _ = connect(t, v, d)
		}
	}
	send := func(device, topic string, body []byte) { clients[device].Publish(fmt.Sprintf(topic, device), body) }
	join()
	var b baseline.Baseline
	if status := operate(t, v, "POST", path+"/propose", "", nil); status != 412 {
		t.Errorf("propose nothing: %d", status)
	}
	for device := range clients {
		send(device, securityTopic, activity(device, "198.51.100.10:8883", "192.0.2.1:443"))
		send(device, jsonTopic, connected("192.0.2.2", 443))
		send(device, "devices/%s/messages/events/", []byte(`{"t":1}`))
	}
	send("pump-3", securityTopic, activity("pump-3", "203.0.113.66:4444")) // taken over while the others learn
	eventually(t, "learning", func() bool {
		operate(t, v, "GET", path, "", &b)
		return b.Learned != nil && b.Learned.Devices == 4 && b.Learned.Messages == 13
	})
	v.Restart() // what was learned stays
	join()
	if operate(t, v, "GET", path, "", &b); b.Learned.Messages != 13 {
		t.Errorf("after a restart %+v", b.Learned)
	}
	if status := operate(t, v, "POST", path+"/propose", "", &b); status != 200 || b.State != baseline.Proposed {
		t.Fatalf("propose: %d %+v", status, b)
	}
	decisions := map[string]baseline.Decision{}
	for _, e := range b.Entries {
		decisions[e.Says()] = e.Decision
		if e.Peer == "203.0.113.66" && !strings.Contains(e.Reason, "seen on 1 of 4 devices; 2 are needed") {
			t.Errorf("%+v", e)
		}
	}
	for says, want := range map[string]baseline.Decision{
		"to 198.51.100.10, TCP port 8883": baseline.Accepted, "to 192.0.2.1, TCP port 443": baseline.Accepted, "to 192.0.2.2, TCP port 443": baseline.Accepted, "to 203.0.113.66, TCP port 4444": baseline.Held,
	} {
		if decisions[says] != want {
			t.Errorf("%s is %q, want %q", says, decisions[says], want)
		}
	}
	var p baseline.Preview
	if operate(t, v, "GET", path+"/preview?days=1", "", &p); p.Alerts != 1 || p.Alerting != 1 || p.Devices != 4 || p.Types[alert.BaselinePeer] != 1 || p.Loudest[0].Device != "pump-3" {
		t.Errorf("preview %+v", p)
	}
	if got := alertsOf(t, v, "limit=100"); len(got) != 0 {
		t.Errorf("alerts before it is enforced: %+v", got)
	}
	operate(t, v, "POST", path+"/enforce", "", &b)
	deviate := func() {
		send("pump-0", securityTopic, activity("pump-0", "192.0.2.1:443", "203.0.113.66:4444"))
		send("pump-1", jsonTopic, connected("192.0.2.2", 23))
	}
	deviate()
	eventually(t, "the alerts", func() bool { return len(alertsOf(t, v, "limit=100")) == 2 })
	for _, a := range alertsOf(t, v, "limit=100") {
		var full alert.Alert
		operate(t, v, "GET", "/api/alerts/"+a.ID, "", &full)
		want := "Device pump-0 connected to 203.0.113.66 by TCP port 4444. The baseline of its security group plant expects: to 192.0.2.1, TCP port 443; to 192.0.2.2, TCP port 443; to 198.51.100.10, TCP port 8883. Since 20"
		if a.Device == "pump-1" {
			want = `Device pump-1 connected to 192.0.2.2 by TCP port 23 with "/usr/bin/pumpd". The baseline of its security group plant expects: to 192.0.2.2, TCP port 443. Since 20`
		}
		if !strings.HasPrefix(a.Description, want) || a.Severity != alert.Medium || a.Group != "plant" || len(full.Evidence) != 2 || !strings.Contains(string(full.Evidence[0].Details), `"expected":["to `) || len(full.Techniques) == 0 {
			t.Errorf("%+v", full)
		}
	}
	v.Restart()
	join()
	deviate()
	eventually(t, "counting after a restart", func() bool {
		n := 0
		for _, a := range alertsOf(t, v, "limit=100") {
			n += a.Count
		}
		return n == 4
	})
	// Both ways with MUD.
	res := get(t, v, path+"/mud")
	f, err := mud.Parse([]byte(res))
	if err != nil || len(f.Rules) != 6 {
		t.Errorf("%v: %s", err, res)
	}
	if status := operate(t, v, "PUT", "/api/baselines/new/mud", res, &b); status != 200 || b.State != baseline.Proposed || len(b.Entries) != 3 || b.Entries[0].Source != baseline.FromMUD {
		t.Errorf("import: %d %+v", status, b)
	}
	var promoted baseline.Promotion
	if operate(t, v, "POST", path+"/promote", "", &promoted); promoted.Added != 3 {
		t.Errorf("%+v", promoted)
	}
}

// get is the text of an answer.
func get(t *testing.T, v *apptest.Vauban, path string) string {
	t.Helper()
	var raw rawJSON
	if status := operate(t, v, "GET", path, "", &raw); status != 200 {
		t.Fatalf("%s: %d %s", path, status, raw)
	}
	return string(raw)
}

// rawJSON keeps JSON as it came.
type rawJSON string

func (r *rawJSON) UnmarshalJSON(text []byte) error {
	*r = rawJSON(text)
	return nil
}
