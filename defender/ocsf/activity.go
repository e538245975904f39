package ocsf

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Events makes the events of a security event: one for each item of its payload, and one for an event without any.
func (m Maker) Events(r *record.Event) []Event {
	if len(r.Details) == 0 {
		return []Event{m.item(r, 0, nil)}
	}
	all := make([]Event, len(r.Details))
	for i := range all {
		all[i] = m.item(r, i, r.Details[i])
	}
	return all
}

func (m Maker) item(r *record.Event, i int, details json.RawMessage) Event {
	uid := fmt.Sprintf("%s/%d", r.Place, i)
	e := m.activity(r, uid, details)
	e.severity(alert.Informational)
	e.Time = millis(r.Enqueued)
	if !r.Time.IsZero() {
		e.Metadata.OriginalTime = r.Time.UTC().Format(time.RFC3339Nano)
	}
	if e.CategoryUID != ComplianceFinding/1000 {
		e.Metadata.Profiles = []string{"host"}
	}
	m.about(&e, r.Device, r.Module, "")
	if e.ClassUID == BaseEvent || e.ClassUID == DeviceInventory {
		e.Message = r.Name
	}
	if r.Problem != "" {
		e.Message = r.Name + ": " + r.Problem
	}
	e.RawData = string(details)
	e.Unmapped = map[string]any{"event_name": r.Name, "event_category": r.Category, "agent": r.Agent, "agent_version": r.AgentVersion}
	return e
}

// activity finds the class of an item, and fills in what is of that class.
func (m Maker) activity(r *record.Event, uid string, details json.RawMessage) Event {
	base := m.event(BaseEvent, 0, uid)
	if details == nil || r.Problem != "" {
		return base
	}
	event, err := secmsg.DecodeDetails(r.Form, r.Name, details)
	if err != nil {
		return base
	}
	switch {
	case len(event.Flows) > 0:
		return m.flow(&event.Flows[0], uid, r.Device)
	case r.Name == "ListeningPorts":
		return m.listening(&event, details, uid, r.Device)
	case r.Name == "Login":
		return m.login(&event, details, uid, r.Device)
	case r.Name == "Process", r.Name == "ProcessCreate", r.Name == "ProcessTerminate":
		return m.process(&event, details, r.Name, uid)
	case len(event.Checks) > 0:
		return m.check(&event.Checks[0], uid, r)
	case r.Name == "Dns":
		return m.query(details, uid, r.Device)
	case r.Name == "FileSystem":
		return m.file(details, uid)
	case r.Name == "SystemInformation":
		return m.inventory(&event, details, uid)
	}
	return base
}

func (m Maker) flow(f *secmsg.Flow, uid, device string) Event {
	e := m.event(NetworkActivity, 6, uid)
	local, remote := &Endpoint{Port: int(f.Local.Port()), UID: device}, &Endpoint{Port: int(f.Remote.Port())}
	if a := f.Local.Addr(); a.IsValid() {
		local.IP = a.Unmap().String()
	}
	if a := f.Remote.Addr(); a.IsValid() {
		remote.IP = a.Unmap().String()
	}
	e.Source, e.Destination = local, remote
	if f.Direction == secmsg.In {
		e.Source, e.Destination = remote, local
	}
	if *remote == (Endpoint{}) {
		e.Source, e.Destination = nil, local
	}
	e.Connection = connection(f.Protocol, f.Direction)
	if f.BytesIn+f.BytesOut > 0 {
		e.Traffic = &Traffic{f.BytesIn + f.BytesOut, f.BytesIn, f.BytesOut}
	}
	e.Count = int(min(f.Hits, 1<<31-1))
	if f.Executable != "" || f.CommandLine != "" {
		e.Actor = &Actor{Process: process(f.Executable, f.CommandLine, f.ProcessID)}
	}
	e.observe("dst_endpoint.ip", ipAddress, remote.IP)
	return e
}

// listening reads both forms of an open port.
func (m Maker) listening(event *secmsg.Event, details json.RawMessage, uid, device string) Event {
	e := m.event(NetworkActivity, 7, uid)
	e.Destination = &Endpoint{UID: device}
	var protocol string
	for _, item := range event.Payload {
		if p, ok := item.(secmsg.ListeningPort); ok {
			protocol = p.Protocol
			e.Destination.Port = int(p.Local.Port())
			if a := p.Local.Addr(); a.IsValid() {
				e.Destination.IP = a.Unmap().String()
			}
			if p.Executable != "" {
				e.Actor = &Actor{Process: process(p.Executable, "", int64(p.ProcessID))}
			}
		}
	}
	if o := object(details); protocol == "" {
		protocol = o.text("Protocol", "protocol")
		e.Destination = endpoint(o.text("LocalAddress", "local_address"), o.text("LocalPort", "local_port"))
		e.Destination.UID = device
	}
	e.Connection = connection(protocol, "")
	return e
}

func (m Maker) login(event *secmsg.Event, details json.RawMessage, uid, device string) Event {
	o := object(details)
	activity := 1
	l := secmsg.Login{User: o.text("UserName", "user_name", "UserId"), Remote: o.text("RemoteAddress", "remote_address")}
	if all := event.Logins(); len(all) > 0 {
		l = all[0]
	} else {
		activity = 2
	}
	e := m.event(Authentication, activity, uid)
	e.User = &User{Name: l.User}
	if l.User == "" {
		e.User.Name = "unknown"
	}
	e.status(1, "Success")
	if l.Failed {
		e.status(2, "Failure")
	}
	e.Destination = &Endpoint{UID: device, Name: device}
	e.IsRemote = new(l.Remote != "")
	if l.Remote != "" {
		e.Source = endpoint(l.Remote, o.text("RemotePort", "remote_port"))
		e.Source.observe(&e, "src_endpoint")
	}
	e.Count = int(min(l.Hits, 1<<31-1))
	e.observe("user.name", userName, e.User.Name)
	return e
}

func (m Maker) process(event *secmsg.Event, details json.RawMessage, name, uid string) Event {
	o := object(details)
	activity := 1
	if name == "ProcessTerminate" || o.text("event_type", "EventType") == "EXIT" {
		activity = 2
	}
	e := m.event(ProcessActivity, activity, uid)
	executable := o.text("Executable", "executable")
	p := process(executable, o.text("CommandLine", "commandline"), o.number("ProcessId", "process_id"))
	if p.Name == "" && p.PID == 0 && p.CommandLine == "" {
		p.Name = "unknown"
	}
	if user := (User{Name: o.text("UserName", "user_name"), UID: o.text("UserId", "user_id")}); user != (User{}) {
		p.User = &user
		e.observe("process.user.name", userName, user.Name)
	}
	e.Actor = &Actor{AppName: "unknown", User: p.User}
	if parent := o.number("ParentProcessId", "parent_process_id"); parent > 0 {
		p.Parent = &Process{PID: parent}
		e.Actor = &Actor{Process: &Process{PID: parent}, User: p.User}
	}
	e.Process = p
	e.Count = int(o.number("hit_count"))
	if all := event.Started(); len(all) > 0 {
		e.Count = int(all[0].HitCount)
	}
	e.observe("process.name", processName, p.Name)
	return e
}

func (m Maker) check(c *secmsg.BaselineCheck, uid string, r *record.Event) Event {
	e := m.event(ComplianceFinding, int(Create), uid)
	title := c.Description
	if title == "" {
		title = c.ID
	}
	e.FindingInfo = &FindingInfo{
		UID: r.Device + "/" + short(c.ID), Title: title, Desc: c.Description, Types: []string{r.Name}, Created: millis(r.Enqueued), Modified: millis(r.Enqueued),
		Analytic: Analytic{UID: c.ID, Name: r.Name, Type: "Rule", TypeID: 1},
	}
	e.Compliance = &Compliance{Standards: []string{"CIS Benchmarks"}, Control: c.ID, Status: "Unknown", Detail: c.Error}
	switch strings.ToUpper(c.Result) {
	case "PASS":
		e.Compliance.Status, e.Compliance.StatusID = "Pass", 1
	case "FAIL":
		e.Compliance.Status, e.Compliance.StatusID = "Fail", 3
	}
	if c.Remediation != "" {
		e.Remediation = &Remediation{c.Remediation}
	}
	return e
}

// query reads a name that was asked for.
func (m Maker) query(details json.RawMessage, uid, device string) Event {
	e := m.event(DNSActivity, 1, uid)
	o := object(details)
	e.Query = &Query{Host: short(o.text("name")), Type: short(o.text("type"))}
	e.Source = &Endpoint{UID: device}
	if server := o.text("server"); server != "" {
		e.Destination = endpoint(server, "")
	}
	if executable := o.text("executable"); executable != "" {
		e.Actor = &Actor{Process: process(executable, "", o.number("process_id"))}
	}
	e.Count = int(o.number("hit_count"))
	e.observe("query.hostname", hostName, e.Query.Host)
	return e
}

// file reads an event of inotify or of file integrity (defender §1.4).
func (m Maker) file(details json.RawMessage, uid string) Event {
	o := object(details)
	activity := 99
	switch strings.ToLower(o.text("Operation", "operation", "action", "mask")) {
	case "create", "created", "in_create":
		activity = 1
	case "modify", "modified", "in_modify", "in_close_write":
		activity = 3
	case "delete", "deleted", "in_delete":
		activity = 4
	}
	e := m.event(FileSystem, activity, uid)
	name := o.text("Path", "path", "FileName", "file")
	if name == "" {
		name = "unknown"
	}
	e.File = file(name)
	e.Actor = &Actor{AppName: "unknown"}
	e.Count = int(o.number("hit_count", "HitCount"))
	return e
}

func (m Maker) inventory(event *secmsg.Event, details json.RawMessage, uid string) Event {
	e := m.event(DeviceInventory, 2, uid)
	o := object(details)
	name := strings.TrimSpace(o.text("OSName", "os_dist") + " " + o.text("OSVersion", "os_version"))
	for _, item := range event.Payload {
		if s, ok := item.(secmsg.SystemInformation); ok {
			name = s.OS
		}
	}
	if name == "" {
		name = "unknown"
	}
	e.Device = &Device{OS: &OS{Name: short(name), Type: "Unknown"}}
	if l := strings.ToLower(name); strings.Contains(l, "linux") || strings.Contains(l, "debian") || strings.Contains(l, "ubuntu") {
		e.Device.OS.Type, e.Device.OS.TypeID = "Linux", 200
	} else if strings.Contains(l, "rtos") {
		e.Device.OS.Type, e.Device.OS.TypeID = "Other", 99
	} else if strings.Contains(l, "windows") {
		e.Device.OS.Type, e.Device.OS.TypeID = "Windows", 100
	}
	return e
}

// anyObject is an item of a payload whose form is not known.
type anyObject map[string]any

func object(details json.RawMessage) anyObject {
	var o anyObject
	if json.Unmarshal(details, &o) != nil {
		return nil
	}
	return o
}

// text is the first of some members that is a text or a number.
func (o anyObject) text(names ...string) string {
	for _, n := range names {
		switch v := o[n].(type) {
		case string:
			if v != "" {
				return v
			}
		case float64:
			return fmt.Sprintf("%.0f", v)
		}
	}
	return ""
}

// number is the first of some members that is one, also as a text, between 0 and 2^31-1.
func (o anyObject) number(names ...string) int64 {
	for _, n := range names {
		switch v := o[n].(type) {
		case float64:
			if v >= 0 && v < 1<<31 {
				return int64(v)
			}
		case string:
			var i int64
			if _, err := fmt.Sscan(v, &i); err == nil && i >= 0 && i < 1<<31 {
				return i
			}
		}
	}
	return 0
}
