package posture

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// WatcherStore is what a [Watcher] needs of the stores.
type WatcherStore interface {
	Assess(ctx context.Context, a Assessment) ([]Recommendation, error)
	SecurityEvents(ctx context.Context, f record.Filter) ([]record.Event, error)
}

// Watcher judges what agents report: each snapshot takes the place of the one before (defender §2.4).
type Watcher struct {
	store    WatcherStore
	disabled func(ctx context.Context) (Disabled, error)
	tell     func([]Recommendation)
}

// NewWatcher makes a watcher. changed hears what changed, and may be nil.
func NewWatcher(store WatcherStore, disabled func(context.Context) (Disabled, error), changed func([]Recommendation)) (*Watcher, error) {
	if store == nil || disabled == nil {
		return nil, errors.New("posture: a watcher needs a store and the disabled types")
	}
	if changed == nil {
		changed = func([]Recommendation) {}
	}
	return &Watcher{store, disabled, changed}, nil
}

// Reported judges a message whose events are kept already. Only a store that fails is an error; the same message may come again.
func (w *Watcher) Reported(ctx context.Context, m *iot.Message, r *secmsg.Report) error {
	v := view{about: m.From}
	latest := snapshots(r)
	for name, events := range latest {
		switch name {
		case "ListeningPorts":
			v.ports(events)
		case "FirewallConfiguration":
			v.firewall(events)
		case "OSBaseline", "Baseline":
			v.baseline(name, events)
		case "ConfigurationError":
			v.configuration(events, m.Enqueued)
		}
	}
	if latest["MessageStatistics"] != nil {
		if err := w.statistics(ctx, &v, m); err != nil {
			return err
		}
	}
	if len(v.types) == 0 {
		return nil
	}
	disabled, err := w.disabled(ctx)
	if err != nil {
		return fmt.Errorf("read the disabled recommendations: %w", err)
	}
	v.types = slices.DeleteFunc(v.types, disabled.Has)
	v.findings = slices.DeleteFunc(v.findings, func(f Finding) bool { return disabled.Has(f.Type) })
	if len(v.types) == 0 {
		return nil
	}
	changed, err := w.store.Assess(ctx, Assessment{
		At: m.Enqueued, Message: m.Sequence, Findings: v.findings,
		Scope: Scope{Types: v.types, First: m.From.Device, Last: m.From.Device, Module: &m.From.Module},
	})
	if err != nil {
		return fmt.Errorf("keep recommendations for %s: %w", m.From, err)
	}
	if len(changed) > 0 {
		w.tell(changed)
	}
	return nil
}

// snapshots returns the events of each name that this room reads. Of snapshots those of the latest time: an agent that was away sends
// several at once, and one snapshot may be in parts. Of errors and statistics all.
func snapshots(r *secmsg.Report) map[string][]*secmsg.Event {
	var all map[string][]*secmsg.Event
	for i := range r.Events {
		e := &r.Events[i]
		switch e.Name {
		case "ListeningPorts", "FirewallConfiguration", "OSBaseline", "Baseline":
			if have := all[e.Name]; have != nil && have[0].Time.After(e.Time) {
				continue
			} else if have != nil && have[0].Time.Before(e.Time) {
				all[e.Name] = nil
			}
		case "ConfigurationError", "MessageStatistics":
		default:
			continue
		}
		if all == nil {
			all = make(map[string][]*secmsg.Event)
		}
		all[e.Name] = append(all[e.Name], e)
	}
	return all
}

// view is what a message says of its device.
type view struct {
	about    iot.ID
	types    []string // that the message is about
	findings []Finding
}

func (v *view) judge(kind string, bad bool, data any) {
	v.types = append(v.types, kind)
	if bad {
		v.findings = append(v.findings, Finding{Type: kind, About: v.about, Data: data})
	}
}

// word is a text that some agents write as a number.
type word string

func (w *word) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(w))
	}
	if len(data) > 0 && data[0] != '{' && data[0] != '[' && !bytes.Equal(data, []byte("null")) {
		*w = word(data)
	}
	return nil
}

// Port is a line of the additional data of IoT_OpenPorts.
type Port struct {
	Protocol string
	Address  string `json:"LocalAddress,omitempty"`
	Port     uint16 `json:"LocalPort"`
	Program  string `json:"Executable,omitempty"` // that listens, where the agent says it
}

// firstEphemeral is where the ports begin that clients get from the system: over UDP an open socket there is mostly a client's.
const firstEphemeral = 32768

// ports finds what others can reach: not what listens on loopback, and of UDP not what only clients open.
func (v *view) ports(events []*secmsg.Event) {
	var open []Port
	add := func(protocol, address string, port uint16, program string) {
		protocol = strings.ToUpper(protocol)
		a, err := netip.ParseAddr(strings.TrimSpace(address))
		if port == 0 || err == nil && a.Unmap().IsLoopback() {
			return
		}
		if strings.HasPrefix(protocol, "UDP") && (port >= firstEphemeral || port == 68 || port == 546) { // DHCP's client
			return
		}
		open = append(open, Port{protocol, clip(address), port, clip(program)})
	}
	for _, e := range events {
		for _, item := range e.Payload {
			switch it := item.(type) {
			case secmsg.ListeningPort:
				address := ""
				if it.Local.Addr().IsValid() {
					address = it.Local.Addr().Unmap().String()
				}
				add(it.Protocol, address, it.Local.Port(), it.Executable)
			case secmsg.Raw:
				var p struct {
					Protocol, LocalAddress, LocalPort word
					Address2                          word `json:"local_address"`
					Port2                             word `json:"local_port"`
				}
				if json.Unmarshal(it, &p) != nil {
					continue
				}
				n, err := strconv.ParseUint(string(cmp.Or(p.LocalPort, p.Port2)), 10, 16)
				if err == nil {
					add(clip(string(p.Protocol)), string(cmp.Or(p.LocalAddress, p.Address2)), uint16(n), "")
				}
			}
		}
	}
	slices.SortFunc(open, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Program, b.Program))
	})
	open = slices.Compact(open)
	v.judge(OpenPorts, len(open) > 0, fitting(open, func(open []Port, more int) any {
		return struct {
			OpenPorts []Port
			More      int `json:",omitempty"`
		}{open, more}
	}))
}

// clip bounds a text of an agent.
func clip(s string) string {
	const longest = 256
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "..."
	}
	return s
}

// fitting makes additional data of as many items as fit.
func fitting[T any](items []T, data func(some []T, more int) any) any {
	keep := min(len(items), 500)
	for {
		d := data(items[:keep], len(items)-keep)
		text, err := json.Marshal(d)
		if err != nil || len(text) <= MaxData || keep == 0 {
			return d
		}
		keep = min(keep-1, keep*MaxData/len(text))
	}
}

// Check is a line of the additional data of IoT_Baseline, and that of a check of the family IoT_CISBenchmarks.
type Check struct {
	ID          string `json:"CheckId"`
	Severity    string
	Description string `json:",omitempty"`
	Error       string `json:",omitempty"`
	Remediation string `json:",omitempty"`
}

// maxChecks bounds the checks of one device that stand alone; what fails beyond is told of by IoT_Baseline.
const maxChecks = 250

// baseline judges checks. The older agents' stand together; each of the micro agent's is a recommendation, as Azure has it, the gravest
// first when there are too many.
func (v *view) baseline(event string, events []*secmsg.Event) {
	var failed []Check
	seen := make(map[string]bool)
	for _, e := range events {
		for i := range e.Checks {
			c := &e.Checks[i]
			if !strings.EqualFold(c.Result, "FAIL") || seen[c.ID] {
				continue
			}
			seen[c.ID] = true
			failed = append(failed, Check{clip(c.ID), clip(c.Severity), clip(c.Description), clip(c.Error), clip(c.Remediation)})
		}
	}
	slices.SortStableFunc(failed, func(a, b Check) int {
		return cmp.Or(-cmp.Compare(Weight(checkSeverity(a.Severity)), Weight(checkSeverity(b.Severity))), cmp.Compare(a.ID, b.ID))
	})
	if event == "Baseline" {
		v.types = append(v.types, CISBenchmarks)
		names := make(map[string]bool)
		for len(failed) > 0 && len(names) < maxChecks {
			c := failed[0]
			failed = failed[1:]
			name := CISBenchmarks + "_" + checkName(c.ID)
			if names[name] {
				continue
			}
			names[name] = true
			v.findings = append(v.findings, Finding{Type: name, About: v.about, Severity: checkSeverity(c.Severity), Data: c})
		}
		if slices.Contains(v.types, Baseline) { // the message has both; what the older form says stands
			return
		}
	}
	if at := slices.Index(v.types, Baseline); at >= 0 {
		v.types = slices.Delete(v.types, at, at+1)
		v.findings = slices.DeleteFunc(v.findings, func(f Finding) bool { return f.Type == Baseline })
	}
	v.judge(Baseline, len(failed) > 0, fitting(failed, func(some []Check, more int) any {
		return struct {
			Failed int
			Checks []Check
			More   int `json:",omitempty"`
		}{len(failed), some, more}
	}))
}

// checkSeverity is what the severity of a check is worth (defender §1.2).
func checkSeverity(s string) alert.Severity {
	switch strings.ToUpper(s) {
	case "CRITICAL":
		return alert.High
	case "IMPORTANT":
		return alert.Medium
	case "WARNING":
		return alert.Low
	}
	return alert.Informational
}

// checkName makes a check's id part of a type's name.
func checkName(id string) string {
	const longest = 100
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '-':
			return r
		}
		return '_'
	}, id)
	return cmp.Or(strings.Trim(name[:min(len(name), longest)], "_"), "unnamed")
}

// Setting is a line of the additional data of what an agent says of its configuration.
type Setting struct {
	ConfigurationName string
	UsedConfiguration string `json:",omitempty"`
	Message           string `json:",omitempty"`
}

type configurationData struct {
	Reported time.Time // by the hub's clock: what was changed later is not what it is about
	Settings []Setting
	More     int `json:",omitempty"`
}

// configuration judges errors; nothing says that there are none any more but a changed twin (Judge).
func (v *view) configuration(events []*secmsg.Event, at time.Time) {
	found := map[string][]Setting{}
	for _, e := range events {
		for _, item := range e.Payload {
			raw, ok := item.(secmsg.Raw)
			var c struct{ ConfigurationName, ErrorType, UsedConfiguration, Message word }
			if !ok || json.Unmarshal(raw, &c) != nil {
				continue
			}
			s := Setting{clip(string(c.ConfigurationName)), clip(string(c.UsedConfiguration)), clip(string(c.Message))}
			switch {
			case strings.EqualFold(string(c.ErrorType), "NotOptimal"):
				found[TwinNotOptimal] = append(found[TwinNotOptimal], s)
			case strings.EqualFold(string(c.ErrorType), "Conflict"):
				found[TwinConflict] = append(found[TwinConflict], s)
			}
		}
	}
	for kind, settings := range found {
		v.judge(kind, true, fitting(settings, func(some []Setting, more int) any {
			return configurationData{at.UTC().Truncate(time.Microsecond), some, more}
		}))
	}
}

const (
	statisticsWindow = 24 * time.Hour
	// maxStatistics bounds the statistics of a day: agents send some each 13 hours.
	maxStatistics = 200
	smallShare    = 10 // percent of messages under 4 KB
)

// statistics adds up what the agent said of its messages in the last 24 hours.
func (w *Watcher) statistics(ctx context.Context, v *view, m *iot.Message) error {
	kept, err := w.store.SecurityEvents(ctx, record.Filter{
		Device: m.From.Device, Name: "MessageStatistics", From: m.Enqueued.Add(-statisticsWindow), To: m.Enqueued.Add(time.Microsecond), Limit: maxStatistics,
	})
	if err != nil {
		return fmt.Errorf("read the message statistics of %s: %w", m.From, err)
	}
	var sent, small uint64
	for i := range kept {
		if kept[i].Module != m.From.Module {
			continue
		}
		for _, row := range kept[i].Details {
			var s struct{ MessagesSent, MessagesUnder4KB word }
			if json.Unmarshal(row, &s) != nil {
				continue
			}
			a, errA := strconv.ParseUint(string(s.MessagesSent), 10, 32)
			b, errB := strconv.ParseUint(string(s.MessagesUnder4KB), 10, 32)
			if errA == nil && errB == nil {
				sent, small = sent+a, small+min(a, b)
			}
		}
	}
	v.judge(AgentSendsUnutilized, sent > 0 && small*100 >= sent*smallShare, struct {
		MessagesSent, MessagesUnder4KB uint64
	}{sent, small})
	return nil
}
