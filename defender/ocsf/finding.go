package ocsf

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/table"
)

// Maker makes events.
type Maker struct {
	Host    string // of the hub
	Version string // of Vauban
}

// Activity of a finding.
type Activity int

// The activities.
const (
	Create Activity = 1
	Update Activity = 2
	Close  Activity = 3
)

func (m Maker) event(class, activity int, uid string) Event {
	e := Event{Metadata: Metadata{Version: Version, UID: uid, LogName: m.Host, Product: Product{Name: "Vauban Defender", VendorName: "Vauban", Version: m.Version}}}
	e.classify(class, activity)
	return e
}

// severity sets a severity in the schema's words.
func (e *Event) severity(s alert.Severity) {
	switch s {
	case alert.High:
		e.SeverityID, e.Severity = 4, "High"
	case alert.Medium:
		e.SeverityID, e.Severity = 3, "Medium"
	case alert.Low:
		e.SeverityID, e.Severity = 2, "Low"
	case alert.Informational:
		e.SeverityID, e.Severity = 1, "Informational"
	default:
		e.SeverityID, e.Severity = 0, "Unknown"
	}
}

// about says of which device, module or hub an event tells.
func (m Maker) about(e *Event, device, module, group string) {
	if device == "" {
		e.Resources = []Resource{{UID: m.Host, Name: m.Host, Type: "IoT hub"}}
		e.observe("resources[0].uid", resourceUID, m.Host)
		return
	}
	if e.Device == nil {
		e.Device = &Device{}
	}
	e.Device.UID, e.Device.Name, e.Device.Type, e.Device.TypeID = device, device, "IOT", 7
	if group != "" {
		e.Device.Groups = []Group{{group}}
	}
	e.observe("device.uid", resourceUID, device)
	if module != "" {
		e.Resources = []Resource{{UID: device + "/" + module, Name: module, Type: "IoT module"}}
	}
}

// Alert makes the Detection Finding of an alert as it stands after a change.
func (m Maker) Alert(c *alert.Change, a Activity) Event {
	e := m.event(DetectionFinding, int(a), fmt.Sprintf("%s/%s/%d", c.ID, c.Place, a))
	e.severity(c.Severity)
	e.Time = millis(c.At)
	e.StartTime, e.EndTime, e.Count = millis(c.FirstSeen), millis(c.LastSeen), c.Count
	e.Message, e.Comment = c.Description, c.Comment
	e.IsAlert = new(true)
	switch c.Status {
	case alert.Suppressed:
		e.status(3, "Suppressed")
	case alert.Resolved:
		e.status(4, "Resolved")
	case alert.Dismissed:
		e.status(99, "Dismissed")
	default:
		e.status(1, "New")
	}
	m.about(&e, c.Device, c.Module, c.Group)
	e.FindingInfo = &FindingInfo{
		UID: c.ID, Title: c.Title, Desc: c.Description, Types: []string{c.Type}, Created: millis(c.FirstSeen), Modified: millis(c.At),
		FirstSeen: millis(c.FirstSeen), LastSeen: millis(c.LastSeen), Attacks: attacks(c.Tactics, c.Techniques),
		Analytic: Analytic{UID: c.Type, Name: c.Source, Type: "Rule", TypeID: 1},
	}
	if len(c.Remediation) > 0 {
		e.Remediation = &Remediation{strings.Join(c.Remediation, " ")}
	}
	endpoint(c.Remote, "").observe(&e, "evidences[].dst_endpoint")
	for i := range c.Evidence {
		ev := &c.Evidence[i]
		f := table.FactsOf(ev)
		e.Evidences = append(e.Evidences, m.evidence(ev, &f, c.Device))
		endpoint(f.RemoteAddress, "").observe(&e, "evidences[].dst_endpoint")
		e.observe("evidences[].actor.user.name", userName, f.User)
		if f.Process != "" {
			e.observe("evidences[].process.name", processName, path.Base(f.Process))
		}
	}
	e.Unmapped = map[string]any{"indicator": c.Indicator, "alert_type": c.Type}
	return e
}

func (m Maker) evidence(ev *alert.Evidence, f *table.Facts, device string) Evidence {
	out := Evidence{Data: ev.Details}
	if f.RemoteAddress != "" {
		local, remote := endpoint(f.LocalAddress, f.LocalPort), endpoint(f.RemoteAddress, f.RemotePort)
		local.UID = device
		out.Connection = connection(f.Protocol, f.Direction)
		out.Source, out.Destination = local, remote
		if f.Direction == "In" || f.User != "" { // who signs in comes from there
			out.Source, out.Destination = remote, local
		}
		for _, p := range []**Endpoint{&out.Source, &out.Destination} {
			if **p == (Endpoint{}) {
				*p = nil
			}
		}
	}
	if f.Process != "" || f.CommandLine != "" {
		out.Process = process(f.Process, f.CommandLine, 0)
	}
	if f.User != "" {
		out.Actor = &Actor{User: &User{Name: f.User}}
	}
	return out
}

// endpoint of an address, which may be a host's name: people sign in from those.
func endpoint(address, portText string) *Endpoint {
	p := &Endpoint{Port: port(portText)}
	if a, err := netip.ParseAddr(address); err == nil {
		p.IP = a.Unmap().WithZone("").String()
	} else {
		p.Host = short(address)
	}
	return p
}

// observe adds what an endpoint is known by.
func (p *Endpoint) observe(e *Event, name string) {
	e.observe(name+".ip", ipAddress, p.IP)
	e.observe(name+".hostname", hostName, p.Host)
}

func port(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

// maxCommand bounds a command line; the whole one stands in the row itself.
const maxCommand = 4 << 10

// process of an executable; one that is not known has at least a command line.
func process(executable, commandLine string, pid int64) *Process {
	p := &Process{PID: max(pid, 0), CommandLine: commandLine[:min(len(commandLine), maxCommand)]}
	if executable != "" {
		p.Name = path.Base(executable)
		p.File = file(executable)
	}
	return p
}

func file(name string) *File {
	f := &File{Name: path.Base(name), Type: "Regular File", TypeID: 1}
	if strings.Contains(name, "/") {
		f.Path = name
	}
	return f
}

var protocols = map[string]int{"TCP": 6, "UDP": 17, "ICMP": 1}

func connection(protocol, direction string) *Connection {
	c := &Connection{Protocol: strings.ToLower(protocol), Number: protocols[strings.ToUpper(protocol)], Direction: "Unknown"}
	switch direction {
	case "In":
		c.DirectionID, c.Direction = 1, "Inbound"
	case "Out":
		c.DirectionID, c.Direction = 2, "Outbound"
	}
	return c
}

// tactics of MITRE ATT&CK for ICS.
var tactics = map[string]string{
	"Initial Access": "TA0108", "Execution": "TA0104", "Persistence": "TA0110", "Privilege Escalation": "TA0111", "Evasion": "TA0103", "Discovery": "TA0102",
	"Lateral Movement": "TA0109", "Collection": "TA0100", "Command and Control": "TA0101", "Inhibit Response Function": "TA0107", "Impair Process Control": "TA0106", "Impact": "TA0105",
}

// attacks are the tactics, and each technique, a part of one below the whole.
func attacks(tacticNames, techniques []string) []Attack {
	var all []Attack
	for _, t := range tacticNames {
		all = append(all, Attack{Tactic: &Named{UID: tactics[t], Name: t}})
	}
	for _, t := range techniques {
		a := Attack{Technique: &Named{UID: t}}
		if whole, _, ok := strings.Cut(t, "."); ok {
			a = Attack{Technique: &Named{UID: whole}, Sub: &Named{UID: t}}
		}
		all = append(all, a)
	}
	return all
}

// Recommendation makes the Compliance Finding of a recommendation: created when it is active, closed when it is resolved.
func (m Maker) Recommendation(r *posture.Recommendation) Event {
	activity, status, id, name := Create, 1, 3, "Fail"
	if r.State == posture.Resolved {
		activity, status, id, name = Close, 4, 1, "Pass"
	}
	e := m.event(ComplianceFinding, int(activity), fmt.Sprintf("%s/%d/%d", r.ID, r.Sequence, activity))
	e.severity(r.Severity)
	e.Time, e.StartTime, e.EndTime = millis(r.StatusChanged), millis(r.Discovered), millis(r.Resolved)
	e.Message = r.Description
	e.status(status, map[int]string{1: "New", 4: "Resolved"}[status])
	m.about(&e, r.Device, r.Module, "")
	e.FindingInfo = &FindingInfo{
		UID: r.ID, Title: r.Title, Desc: r.Description, Types: []string{r.Type}, Created: millis(r.Discovered), Modified: millis(r.StatusChanged),
		FirstSeen: millis(r.FirstEvaluated), Analytic: Analytic{UID: r.TypeID, Name: r.Type, Type: "Rule", TypeID: 1},
	}
	e.Compliance = &Compliance{Standards: []string{"Microsoft Defender for IoT recommendations"}, Control: r.Type, Status: name, StatusID: id, Detail: string(r.Data)}
	if strings.HasPrefix(r.Type, posture.CISBenchmarks+"_") || r.Type == posture.Baseline {
		e.Compliance.Standards = []string{"CIS Benchmarks"}
	}
	if len(r.Remediation) > 0 {
		e.Remediation = &Remediation{strings.Join(r.Remediation, " ")}
	}
	e.Unmapped = map[string]any{"recommendation_type": r.Type}
	return e
}
