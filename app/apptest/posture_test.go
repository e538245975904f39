package apptest_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/cli"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
)

func recommendations(t *testing.T, v *apptest.Vauban, query url.Values) []posture.Recommendation {
	t.Helper()
	var list struct{ Recommendations []posture.Recommendation }
	if status := operate(t, v, "GET", "/api/recommendations?"+query.Encode(), "", &list); status != http.StatusOK {
		t.Fatalf("recommendations: %d", status)
	}
	return list.Recommendations
}

// state is that of the recommendation of a type about a device; empty: there is none.
func state(t *testing.T, v *apptest.Vauban, device, kind string) posture.State {
	t.Helper()
	list := recommendations(t, v, url.Values{"device": {device}, "type": {kind}})
	if len(list) == 0 {
		return ""
	}
	return list[0].State
}

func securityScore(t *testing.T, v *apptest.Vauban, query string) (s posture.Score) {
	t.Helper()
	operate(t, v, "GET", "/api/security-score?"+query, "", &s)
	return s
}

const agentTopic = "devices/%s/messages/events/%%24.ifid=urn%%3Aazureiot%%3ASecurity%%3ASecurityAgent%%3A1"

// ports is what an agent of the first generation sends of listening ports.
func ports(numbers ...int) []byte {
	var items []string
	for _, n := range numbers {
		items = append(items, fmt.Sprintf(`{"Protocol":"tcp","LocalAddress":"0.0.0.0","LocalPort":"%d","RemoteAddress":"0.0.0.0","RemotePort":"*"}`, n))
	}
	return fmt.Appendf(nil, `{"AgentVersion":"0.0.5","AgentId":"a8cd1d2c-5b9f-4f0e-8b7c-000000000001","MessageSchemaVersion":"1.0","Events":[{"EventType":"Security","Category":"Periodic",
		"Name":"ListeningPorts","IsEmpty":%t,"PayloadSchemaVersion":"1.0","Id":"a8cd1d2c-5b9f-4f0e-8b7c-000000000002","TimestampLocal":"2026-01-01T00:00:00Z","TimestampUTC":"2026-01-01T00:00:00Z","Payload":[%s]}]}`,
		len(items) == 0, strings.Join(items, ","))
}

// The self test of the agents (defender §1.5): an open port is recommended against, until it is closed.
func TestVauban_Recommendations(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	d := v.Device("cam")
	v.Device("lamp")
	weak := v.TLS()
	weak.MaxVersion, weak.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256}
	c := mqtttest.Dial(t, v.Address(v.Ports.MQTT), weak)
	if _, code := c.Connect(hello(v, d)); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	topic := fmt.Sprintf(agentTopic, "cam")
	c.Publish(topic, ports(8888))
	eventually(t, "the recommendation", func() bool { return state(t, v, "cam", posture.OpenPorts) == posture.Active })
	one := recommendations(t, v, url.Values{"device": {"cam"}, "type": {posture.OpenPorts}})[0]
	if !strings.Contains(string(one.Data), `"LocalPort":8888`) || one.Severity != "Medium" {
		t.Errorf("got %+v", one)
	}
	// What the hub knows itself comes by itself.
	for device, kinds := range map[string][]string{"cam": {posture.VulnerableTLSCipherSuite, posture.SymmetricKey}, "lamp": {posture.InstallAgent, posture.SymmetricKey}} {
		for _, kind := range kinds {
			eventually(t, kind+" of "+device, func() bool { return state(t, v, device, kind) == posture.Active })
		}
	}
	eventually(t, "the hub's recommendations", func() bool {
		return len(recommendations(t, v, url.Values{"hub": {"true"}, "type": {posture.IPFilterDenyAll}})) == 1
	})
	eventually(t, "that cam has an agent", func() bool { return state(t, v, "cam", posture.InstallAgent) != posture.Active })
	if s := securityScore(t, v, "device=cam"); s.Score != 100-12-12-4 || s.Devices != 1 || len(s.Lines) != 3 {
		t.Errorf("the score of cam: %+v", s)
	}

	// The command line shows the same.
	run := func(args ...string) string {
		t.Helper()
		var out, complaints bytes.Buffer
		root := cli.New(strings.NewReader(""), &out, &complaints)
		root.SetArgs(append(append([]string{"recommendation"}, args...), "--data", v.Dir))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("vauban recommendation %q: %v %s", args, err, complaints.String())
		}
		return out.String()
	}
	for text, args := range map[string][]string{
		"IoT_OpenPorts":                         {"list", "--device", "cam", "--state", "all"},
		`"LocalPort": 8888`:                     {"show", one.ID},
		"72 of 100; 1 of 1 devices":             {"score", "--device", "cam"},
		"an agent that sends MessageStatistics": {"types"},
	} {
		if out := run(args...); !strings.Contains(out, text) {
			t.Errorf("%q does not show %q:\n%s", args, text, out)
		}
	}

	c.Publish(topic, ports())
	eventually(t, "its end", func() bool { return state(t, v, "cam", posture.OpenPorts) == posture.Resolved })
	c.Publish(topic, ports(8888))
	eventually(t, "its return", func() bool { return state(t, v, "cam", posture.OpenPorts) == posture.Active })
	if again := recommendations(t, v, url.Values{"device": {"cam"}, "type": {posture.OpenPorts}})[0]; again.ID != one.ID || !again.FirstEvaluated.Equal(one.FirstEvaluated) {
		t.Errorf("it is another one: %+v after %+v", again, one)
	}

	// Switched off, over a restart.
	if out := run("disable", posture.OpenPorts); !strings.Contains(out, "1 were resolved") {
		t.Errorf("disable: %s", out)
	}
	v.Restart()
	c, _ = connect(t, v, d)
	c.Publish(topic, ports(8888, 23))
	eventually(t, "the connection with a better suite", func() bool { return state(t, v, "cam", posture.VulnerableTLSCipherSuite) == posture.Resolved })
	if got := recommendations(t, v, url.Values{"type": {posture.OpenPorts}, "state": {"Active"}}); len(got) != 0 {
		t.Errorf("disabled, and yet %+v", got)
	}
	run("enable", posture.OpenPorts)
	c.Publish(topic, ports(23))
	eventually(t, "its return when it is enabled", func() bool { return state(t, v, "cam", posture.OpenPorts) == posture.Active })
}
