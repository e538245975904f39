package apptest_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/internal/conform"
)

// started is what an agent of the first generation sends of a process.
func started(program, line string) []byte {
	return fmt.Appendf(nil, `{"AgentVersion":"0.0.5","AgentId":"a8cd1d2c-5b9f-4f0e-8b7c-000000000001","MessageSchemaVersion":"1.0","Events":[{"EventType":"Security","Category":"Triggered",
		"Name":"ProcessCreate","IsEmpty":false,"PayloadSchemaVersion":"1.0","Id":"a8cd1d2c-5b9f-4f0e-8b7c-000000000003","TimestampLocal":"2026-01-01T00:00:00Z","TimestampUTC":"2026-01-01T00:00:00Z",
		"Payload":[{"Executable":%q,"ProcessId":4711,"ParentProcessId":1,"UserId":"0","CommandLine":%q}]}]}`, program, line)
}

// The trigger script of the first agents (defender §1.5): a port that opens and closes, and a command that names a miner.
func TestVauban_TriggersOfTheFirstAgents(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-18")
	v := apptest.Start(t)
	c, _ := connect(t, v, v.Device("cam"))
	topic := fmt.Sprintf(agentTopic, "cam")
	alerts := func(status alert.Status) []alert.Alert {
		t.Helper()
		var list struct{ Alerts []alert.Alert }
		if code := operate(t, v, "GET", "/api/alerts?device=cam&status="+string(status), "", &list); code != http.StatusOK {
			t.Fatalf("alerts: %d", code)
		}
		return list.Alerts
	}
	c.Publish(topic, ports(8888))
	eventually(t, "the recommendation", func() bool { return state(t, v, "cam", posture.OpenPorts) == posture.Active })
	c.Publish(topic, ports())
	eventually(t, "its end", func() bool { return state(t, v, "cam", posture.OpenPorts) == posture.Resolved })
	if all := alerts(alert.Open); len(all) != 0 {
		t.Errorf("before the command: %+v", all)
	}
	c.Publish(topic, started("/bin/sh", `sh -c "echo cpuminer-multi"`))
	eventually(t, "the alert", func() bool { return len(alerts(alert.Open)) == 1 })
	a := alerts(alert.Open)[0]
	if a.Type != "IoT_CryptoMiner" || a.Severity != alert.High || a.Indicator != "name: cpuminer-multi" || a.Source != "rules for devices" {
		t.Errorf("%+v", a)
	}

	// An exception by what the alert is about holds the same back, and nothing else.
	body := fmt.Sprintf(`{"alertType":%q,"indicator":%q,"expires":%q,"reason":"a test"}`, a.Type, a.Indicator, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	if code := operate(t, v, "POST", "/api/suppressions", body, nil); code != http.StatusCreated && code != http.StatusOK {
		t.Fatalf("suppress: %d", code)
	}
	c.Publish(topic, started("/bin/sh", `sh -c "echo cpuminer-multi; true"`))
	c.Publish(topic, started("/usr/bin/nmap", "nmap 10.0.0.1"))
	eventually(t, "another alert", func() bool {
		return len(alerts(alert.Open)) == 1 && alerts(alert.Open)[0].Type == "IoT_KnownAttackTools"
	})
	if held := alerts(alert.Suppressed); len(held) != 1 || held[0].Count != 2 {
		t.Errorf("held back: %+v", held)
	}
}
