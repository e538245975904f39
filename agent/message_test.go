package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// However small messages must be, everything that fits into one is in one of them, once.
func TestSplit(t *testing.T) {
	t.Parallel()
	var all []collect.Observation
	now := time.Unix(1700000000, 0)
	for i := range 300 {
		all = append(all, collect.Observation{Event: "SBoM", Time: now, Item: secmsg.Package{Name: fmt.Sprintf("package-%03d", i), Version: "1", Type: "deb"}})
		all = append(all, collect.Observation{Event: "Baseline", Time: now, Check: &secmsg.BaselineCheck{ID: fmt.Sprintf("check-%03d", i), Result: "PASS", Severity: "WARNING"}})
	}
	all = append(all,
		collect.Observation{Event: "Heartbeat", Time: now.Add(time.Second)},
		collect.Observation{Event: "Process", Time: now, Item: secmsg.Process{CommandLine: strings.Repeat("x", 9000), EventType: "EXEC"}})
	for _, most := range []int{8192, 20000, 1 << 20} {
		found := map[string]int{}
		messages := 0
		left := split(secmsg.Report{Agent: Module, AgentVersion: "1", Events: eventsOf(all)}, most, func(body []byte, _ []secmsg.Event) {
			messages++
			if len(body) > most {
				t.Errorf("a message of %d bytes, at most %d", len(body), most)
			}
			r, err := secmsg.Decode(secmsg.IndicatorJSON, body)
			if err != nil || r.Skipped > 0 {
				t.Fatal(err, r.Notes)
			}
			for _, e := range r.Events {
				found[e.Name] += max(items(&e), 1)
				for _, it := range e.Payload {
					if p, ok := it.(secmsg.Package); ok {
						found[p.Name]++
					}
				}
			}
		})
		process := 1
		if most < 9000 {
			process = 0
		}
		if found["SBoM"] != 300 || found["Baseline"] != 300 || found["Heartbeat"] != 1 || found["Process"] != process || len(left) != 1-process {
			t.Errorf("at most %d: %d messages, %d packages, %d checks, %d heartbeats, %d processes, %d left", most, messages, found["SBoM"], found["Baseline"], found["Heartbeat"], found["Process"], len(left))
		}
		for i := range 300 {
			if name := fmt.Sprintf("package-%03d", i); found[name] != 1 {
				t.Errorf("at most %d: %s came %d times", most, name, found[name])
			}
		}
	}
}

// Flows of one second and as long are one event, whose interval says how long; all come in the order of time.
func TestEventsOf_Flows(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1700000000, 0)
	flow := func(first, last int) collect.Observation {
		at := func(s int) time.Time { return begin.Add(time.Duration(s)*time.Second + time.Millisecond) }
		return collect.Observation{Event: "NetworkActivity", Time: at(first), Flow: &secmsg.Flow{First: at(first), Last: at(last)}}
	}
	var got []string
	for _, e := range eventsOf([]collect.Observation{flow(0, 7200), flow(5, 5), flow(5, 5), flow(1, 7200), {Event: "Heartbeat", Time: begin.Add(6 * time.Second)}}) {
		got = append(got, fmt.Sprintf("%s %d %v %d", e.Name, e.Time.Unix()-begin.Unix(), e.Interval, len(e.Flows)))
	}
	if want := "NetworkActivity 5 0s 2; Heartbeat 6 0s 0; NetworkActivity 7200 2h0m0s 1; NetworkActivity 7200 1h59m59s 1"; strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
}

func TestMergePatch(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.desired = mergePatch(nil, raw(t, `{"a":1,"b":{"c":1,"d":2},"e":"x"}`))
	a.desired = mergePatch(a.desired, raw(t, `{"a":null,"b":{"c":null,"f":{"g":1}},"e":{"h":null,"i":3}}`))
	if got, want := text(t, a.desired), `{"b":{"d":2,"f":{"g":1}},"e":{"i":3}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
