// Package ocsf writes what Defender keeps as events of the Open Cybersecurity Schema Framework, version 1.4.0 (defender §5): alerts as
// Detection Findings, recommendations as Compliance Findings, and security events as Network, Authentication, Process, File System and Device
// Inventory events; what has no class of its own is a Base Event.
package ocsf

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/table"
)

// Version of the schema that is written.
const Version = "1.4.0"

// The classes.
const (
	BaseEvent         = 0
	FileSystem        = 1001
	ProcessActivity   = 1007
	ComplianceFinding = 2003
	DetectionFinding  = 2004
	Authentication    = 3002
	NetworkActivity   = 4001
	DNSActivity       = 4003
	DeviceInventory   = 5001
)

var classes = map[int]struct{ class, category string }{
	BaseEvent:         {"Base Event", "Uncategorized"},
	FileSystem:        {"File System Activity", "System Activity"},
	ProcessActivity:   {"Process Activity", "System Activity"},
	ComplianceFinding: {"Compliance Finding", "Findings"},
	DetectionFinding:  {"Detection Finding", "Findings"},
	Authentication:    {"Authentication", "Identity & Access Management"},
	NetworkActivity:   {"Network Activity", "Network Activity"},
	DNSActivity:       {"DNS Activity", "Network Activity"},
	DeviceInventory:   {"Device Inventory Info", "Discovery"},
}

// activities by class, as the schema names them.
var activities = map[int]map[int]string{
	BaseEvent:         {0: "Unknown"},
	FileSystem:        {1: "Create", 3: "Update", 4: "Delete", 99: "Other"},
	ProcessActivity:   {1: "Launch", 2: "Terminate"},
	ComplianceFinding: {1: "Create", 2: "Update", 3: "Close"},
	DetectionFinding:  {1: "Create", 2: "Update", 3: "Close"},
	Authentication:    {1: "Logon", 2: "Logoff"},
	NetworkActivity:   {6: "Traffic", 7: "Listen"},
	DNSActivity:       {1: "Query"},
	DeviceInventory:   {2: "Collect"},
}

// Event is an event of any class: each uses some of the members. Times are milliseconds since 1970.
type Event struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"`
	TypeName     string `json:"type_name"`
	SeverityID   int    `json:"severity_id"`
	Severity     string `json:"severity"`
	Time         int64  `json:"time"`
	StartTime    int64  `json:"start_time,omitempty"`
	EndTime      int64  `json:"end_time,omitempty"`
	Count        int    `json:"count,omitempty"`
	Message      string `json:"message,omitempty"`
	StatusID     *int   `json:"status_id,omitempty"`
	Status       string `json:"status,omitempty"`
	Comment      string `json:"comment,omitempty"`

	Metadata    Metadata       `json:"metadata"`
	Observables []Observable   `json:"observables,omitempty"`
	Unmapped    map[string]any `json:"unmapped,omitempty"`
	RawData     string         `json:"raw_data,omitempty"`
	Device      *Device        `json:"device,omitempty"`
	Resources   []Resource     `json:"resources,omitempty"`
	FindingInfo *FindingInfo   `json:"finding_info,omitempty"`
	Compliance  *Compliance    `json:"compliance,omitempty"`
	Remediation *Remediation   `json:"remediation,omitempty"`
	Evidences   []Evidence     `json:"evidences,omitempty"`
	IsAlert     *bool          `json:"is_alert,omitempty"`
	Connection  *Connection    `json:"connection_info,omitempty"`
	Source      *Endpoint      `json:"src_endpoint,omitempty"`
	Destination *Endpoint      `json:"dst_endpoint,omitempty"`
	Traffic     *Traffic       `json:"traffic,omitempty"`
	Query       *Query         `json:"query,omitempty"`
	User        *User          `json:"user,omitempty"`
	IsRemote    *bool          `json:"is_remote,omitempty"`
	Actor       *Actor         `json:"actor,omitempty"`
	Process     *Process       `json:"process,omitempty"`
	File        *File          `json:"file,omitempty"`
}

// The objects of the schema, as far as they are used.
type (
	Metadata struct {
		Version      string   `json:"version"`
		UID          string   `json:"uid,omitempty"` // the same each time an event is sent: receivers know a repetition by it
		Product      Product  `json:"product"`
		Profiles     []string `json:"profiles,omitempty"`
		LogName      string   `json:"log_name,omitempty"`
		OriginalTime string   `json:"original_time,omitempty"` // by the device's clock
	}
	Product struct {
		Name       string `json:"name"`
		VendorName string `json:"vendor_name"`
		Version    string `json:"version,omitempty"`
	}
	Observable struct {
		Name   string `json:"name"`
		Type   string `json:"type"`
		TypeID int    `json:"type_id"`
		Value  string `json:"value"`
	}
	Device struct {
		UID    string  `json:"uid,omitempty"`
		Name   string  `json:"name,omitempty"`
		Type   string  `json:"type"`
		TypeID int     `json:"type_id"`
		OS     *OS     `json:"os,omitempty"`
		Groups []Group `json:"groups,omitempty"`
	}
	OS struct {
		Name   string `json:"name"`
		Type   string `json:"type"`
		TypeID int    `json:"type_id"`
	}
	Group struct {
		Name string `json:"name"`
	}
	Resource struct {
		UID  string `json:"uid"`
		Name string `json:"name,omitempty"`
		Type string `json:"type"`
	}
	FindingInfo struct {
		UID       string   `json:"uid"`
		Title     string   `json:"title"`
		Desc      string   `json:"desc,omitempty"`
		Types     []string `json:"types,omitempty"`
		Created   int64    `json:"created_time,omitempty"`
		Modified  int64    `json:"modified_time,omitempty"`
		FirstSeen int64    `json:"first_seen_time,omitempty"`
		LastSeen  int64    `json:"last_seen_time,omitempty"`
		Attacks   []Attack `json:"attacks,omitempty"`
		Analytic  Analytic `json:"analytic"`
	}
	Attack struct {
		Tactic    *Named `json:"tactic,omitempty"`
		Technique *Named `json:"technique,omitempty"`
		Sub       *Named `json:"sub_technique,omitempty"`
	}
	Named struct {
		UID  string `json:"uid,omitempty"`
		Name string `json:"name,omitempty"`
	}
	Analytic struct {
		UID    string `json:"uid,omitempty"`
		Name   string `json:"name,omitempty"`
		Type   string `json:"type"`
		TypeID int    `json:"type_id"` // 1: rule
	}
	Compliance struct {
		Standards []string `json:"standards"`
		Control   string   `json:"control,omitempty"`
		Status    string   `json:"status"`
		StatusID  int      `json:"status_id"` // 1: pass, 3: fail
		Detail    string   `json:"status_detail,omitempty"`
	}
	Remediation struct {
		Desc string `json:"desc"`
	}
	Evidence struct {
		Data        json.RawMessage `json:"data,omitempty"` // the row as it was
		Connection  *Connection     `json:"connection_info,omitempty"`
		Source      *Endpoint       `json:"src_endpoint,omitempty"`
		Destination *Endpoint       `json:"dst_endpoint,omitempty"`
		Process     *Process        `json:"process,omitempty"`
		Actor       *Actor          `json:"actor,omitempty"`
	}
	Connection struct {
		Protocol    string `json:"protocol_name,omitempty"`
		Number      int    `json:"protocol_num,omitempty"`
		Direction   string `json:"direction"`
		DirectionID int    `json:"direction_id"`
	}
	Endpoint struct {
		IP   string `json:"ip,omitempty"`
		Host string `json:"hostname,omitempty"`
		Port int    `json:"port,omitempty"`
		UID  string `json:"uid,omitempty"`
		Name string `json:"name,omitempty"`
	}
	Traffic struct {
		Bytes    uint64 `json:"bytes"`
		BytesIn  uint64 `json:"bytes_in"`
		BytesOut uint64 `json:"bytes_out"`
	}
	Query struct {
		Host string `json:"hostname"`
		Type string `json:"type,omitempty"`
	}
	User struct {
		Name string `json:"name,omitempty"`
		UID  string `json:"uid,omitempty"`
	}
	Actor struct {
		Process *Process `json:"process,omitempty"`
		User    *User    `json:"user,omitempty"`
		AppName string   `json:"app_name,omitempty"`
	}
	Process struct {
		Name        string   `json:"name,omitempty"`
		PID         int64    `json:"pid,omitempty"`
		CommandLine string   `json:"cmd_line,omitempty"`
		File        *File    `json:"file,omitempty"`
		User        *User    `json:"user,omitempty"`
		Parent      *Process `json:"parent_process,omitempty"`
	}
	File struct {
		Name   string `json:"name"`
		Path   string `json:"path,omitempty"`
		Type   string `json:"type"`
		TypeID int    `json:"type_id"`
	}
)

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// classify fills in the numbers and names of a class and an activity.
func (e *Event) classify(class, activity int) {
	c := classes[class]
	e.ClassUID, e.ClassName = class, c.class
	e.CategoryUID, e.CategoryName = class/1000, c.category
	e.ActivityID, e.ActivityName = activity, activities[class][activity]
	e.TypeUID, e.TypeName = class*100+activity, c.class+": "+e.ActivityName
}

func (e *Event) status(id int, name string) { e.StatusID, e.Status = &id, name }

// The types of observables.
const (
	hostName    = 1
	ipAddress   = 2
	userName    = 4
	processName = 9
	resourceUID = 10
)

var observableTypes = map[int]string{hostName: "Hostname", ipAddress: "IP Address", userName: "User Name", processName: "Process Name", resourceUID: "Resource UID"}

// maxObservables bounds those of one event.
const maxObservables = 64

// observe adds an observable once.
func (e *Event) observe(name string, kind int, value string) {
	if value == "" || len(e.Observables) >= maxObservables {
		return
	}
	for _, o := range e.Observables {
		if o.TypeID == kind && o.Value == value {
			return
		}
	}
	e.Observables = append(e.Observables, Observable{name, observableTypes[kind], kind, value})
}

// Text writes e, in at most so many bytes: when it is longer, rows of evidence and the raw data go first, then what else there may be much of.
// most is at least 4096.
func (e Event) Text(most int) []byte {
	for _, less := range []func(){
		func() {},
		func() {
			e.RawData = ""
			var kept []Evidence
			for _, ev := range e.Evidences {
				if ev.Data = nil; ev.Connection != nil || ev.Process != nil || ev.Actor != nil {
					kept = append(kept, ev)
				}
			}
			e.Evidences = kept
		},
		func() { e.Evidences, e.Observables = nil, nil },
		func() {
			e.Process, e.File, e.Compliance, e.Remediation, e.Unmapped = e.Process.short(), e.File.short(), e.Compliance.short(), nil, nil
			if e.Actor != nil {
				e.Actor = &Actor{AppName: "unknown"}
			}
			if e.User != nil {
				e.User = &User{Name: short(e.User.Name)}
			}
		},
		func() {
			e.Message, e.Comment = short(e.Message), ""
			if e.FindingInfo != nil {
				f := *e.FindingInfo
				f.Title, f.Desc, f.UID, f.Types, f.Analytic = short(f.Title), "", short(f.UID), nil, Analytic{Type: "Rule", TypeID: 1}
				e.FindingInfo = &f
			}
		},
	} {
		less()
		if text := table.Marshal(e); len(text) <= most {
			return text
		}
	}
	// Of what a device may make long nothing is left in this: that there was an event, and where it stands.
	last := Event{SeverityID: e.SeverityID, Severity: e.Severity, Time: e.Time, Metadata: e.Metadata, Message: e.ClassName + ", too long to be sent"}
	last.Metadata.OriginalTime = ""
	last.classify(BaseEvent, 0)
	return table.Marshal(last)
}

func (p *Process) short() *Process {
	if p == nil {
		return nil
	}
	return &Process{Name: short(p.Name), PID: p.PID}
}

func (f *File) short() *File {
	if f == nil {
		return nil
	}
	return &File{Name: short(f.Name), Type: f.Type, TypeID: f.TypeID}
}

func (c *Compliance) short() *Compliance {
	if c == nil {
		return nil
	}
	return &Compliance{Standards: c.Standards, Control: short(c.Control), Status: c.Status, StatusID: c.StatusID}
}

func short(s string) string { return strings.ToValidUTF8(s[:min(len(s), 256)], "") }
