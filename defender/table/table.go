// Package table writes what Defender keeps as rows of the Log Analytics workspace tables SecurityAlert, SecurityIoTRawEvent and
// SecurityRecommendation, with all their columns (defender §2.6), so that queries written for Azure go on.
package table

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Name of a table.
type Name string

// The tables.
const (
	Alerts          Name = "SecurityAlert"
	RawEvents       Name = "SecurityIoTRawEvent"
	Recommendations Name = "SecurityRecommendation"
)

// Names are all there are.
var Names = []Name{Alerts, RawEvents, Recommendations}

// The words for what ProductName says.
const (
	Vauban = "vauban"
	Azure  = "azure" // what Sentinel's rules for Defender for IoT look for
)

// ProductName is what the column ProductName holds for a word: empty or vauban, or azure; fault.Invalid for another.
func ProductName(word string) (string, error) {
	switch word {
	case "", Vauban:
		return "Vauban", nil
	case Azure:
		return "Azure Security Center for IoT", nil
	}
	return "", fault.New(fault.Invalid, "the product is vauban or azure, not %q", word)
}

// Maker makes rows.
type Maker struct {
	Host    string // of the hub
	Product string // see ProductName
}

// What stands in the place of Azure's subscription and resource group.
const (
	subscription  = "00000000-0000-0000-0000-000000000000"
	resourceGroup = "vauban"
	provider      = "IoTSecurity"
	vendor        = "Vauban"
)

// Resource is the hub's id in Azure's form.
func (m Maker) Resource() string {
	name, _, _ := strings.Cut(m.Host, ".")
	return "/subscriptions/" + subscription + "/resourceGroups/" + resourceGroup + "/providers/Microsoft.Devices/IotHubs/" + name
}

// about is the id of a device or module in that form; of the hub itself for the zero names.
func (m Maker) about(device, module string) string {
	id := m.Resource()
	if device != "" {
		id += "/devices/" + device
	}
	if module != "" {
		id += "/modules/" + module
	}
	return id
}

// Alert is a row of SecurityAlert.
type Alert struct {
	TimeGenerated           time.Time
	StartTime               time.Time
	EndTime                 time.Time
	ProcessingEndTime       time.Time
	AlertName               string
	DisplayName             string
	AlertSeverity           string
	Description             string
	ProviderName            string
	ProductName             string
	ProductComponentName    string
	VendorName              string
	VendorOriginalID        string `json:"VendorOriginalId"`
	SystemAlertID           string `json:"SystemAlertId"`
	ResourceID              string `json:"ResourceId"`
	SourceComputerID        string `json:"SourceComputerId"`
	CompromisedEntity       string
	ConfidenceLevel         string
	ConfidenceScore         *float64
	IsIncident              bool
	Status                  string
	RemediationSteps        string // JSON, as the four below
	ExtendedProperties      string
	Entities                string
	ExtendedLinks           string
	AlertLink               string
	Tactics                 string
	Techniques              string
	WorkspaceSubscriptionID string `json:"WorkspaceSubscriptionId"`
	WorkspaceResourceGroup  string
	Type                    Name
}

// Event is a row of SecurityIoTRawEvent: one item of an event's payload.
type Event struct {
	TimeGenerated        time.Time
	TimeStamp            *time.Time // by the device's clock
	AgentVersion         string
	AssociatedResourceID string `json:"AssociatedResourceId"`
	AzureSubscriptionID  string `json:"AzureSubscriptionId"`
	DeviceID             string `json:"DeviceId"`
	IoTRawEventID        string `json:"IoTRawEventId"`
	RawEventName         string
	RawEventType         string
	RawEventCategory     string
	IsEmpty              bool
	EventDetails         string // JSON
	Type                 Name
}

// Recommendation is a row of SecurityRecommendation.
type Recommendation struct {
	TimeGenerated                time.Time
	AssessedResourceID           string `json:"AssessedResourceId"`
	DeviceID                     string `json:"DeviceId"`
	DiscoveredTimeUTC            time.Time
	FirstEvaluationDate          time.Time
	StatusChangeDate             time.Time
	ResolvedTimeUTC              *time.Time
	RecommendationID             string `json:"RecommendationId"`
	RecommendationName           string
	RecommendationDisplayName    string
	RecommendationSeverity       string
	RecommendationState          string
	RecommendationAdditionalData string // JSON
	Description                  string
	Environment                  string
	IsSnapshot                   bool
	PolicyDefinitionID           string `json:"PolicyDefinitionId"`
	ProviderName                 string
	Properties                   string // JSON
	ResourceRegion               string
	Type                         Name
}

// status is the state of an alert in Azure's words.
func status(s alert.Status) string {
	switch s {
	case alert.Dismissed, alert.Suppressed:
		return "Dismissed"
	case alert.Resolved:
		return "Resolved"
	}
	return "New"
}

// Alert makes the row of an alert as it stands after a change.
func (m Maker) Alert(c *alert.Change) Alert {
	product, err := ProductName(m.Product)
	if err != nil {
		product, _ = ProductName("")
	}
	entity := c.Device
	if c.Module != "" {
		entity += "/" + c.Module
	}
	if entity == "" {
		entity, _, _ = strings.Cut(m.Host, ".")
	}
	return Alert{
		TimeGenerated: c.At.UTC(), StartTime: c.FirstSeen.UTC(), EndTime: c.LastSeen.UTC(), ProcessingEndTime: c.At.UTC(),
		AlertName: c.Type, DisplayName: c.Title, AlertSeverity: string(c.Severity), Description: c.Description,
		ProviderName: provider, ProductName: product, ProductComponentName: "Defender", VendorName: vendor,
		VendorOriginalID: c.ID, SystemAlertID: c.ID, ResourceID: m.Resource(), SourceComputerID: c.Device, CompromisedEntity: entity,
		ConfidenceLevel: "Unknown", Status: status(c.Status), RemediationSteps: text(list(c.Remediation)),
		ExtendedProperties: text(extended(c)), Entities: text(m.entities(c)), ExtendedLinks: "[]",
		Tactics: join(c.Tactics), Techniques: text(list(c.Techniques)),
		WorkspaceSubscriptionID: subscription, WorkspaceResourceGroup: resourceGroup, Type: Alerts,
	}
}

// join writes tactics as Sentinel does: without spaces inside of one.
func join(tactics []string) string {
	all := make([]string, len(tactics))
	for i, t := range tactics {
		for w := range strings.FieldsSeq(t) {
			all[i] += strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(all, ", ")
}

// extended are the ExtendedProperties, under the keys that Azure documents.
func extended(c *alert.Change) map[string]string {
	p := map[string]string{"DeviceId": c.Device, "Alert Type": c.Type, "Count": strconv.Itoa(c.Count), "Vauban Status": string(c.Status)}
	set := func(key, value string) {
		if value != "" && p[key] == "" {
			p[key] = value
		}
	}
	set("ModuleId", c.Module)
	set("Security Group", c.Group)
	set("Indicator", c.Indicator)
	set("Source", c.Source)
	set("Remote Address", c.Remote)
	set("Local Address", c.Local)
	set("Protocol", c.Protocol)
	set("Direction", c.Direction)
	set("Comment", c.Comment)
	var users []string
	for i := range c.Evidence {
		f := FactsOf(&c.Evidence[i])
		set("Remote Address", f.RemoteAddress)
		set("Remote Port", f.RemotePort)
		set("Local Port", f.LocalPort)
		set("Full Source Address", f.source())
		set("User Name", f.User)
		set("Login Shell", f.LoginShell)
		set("Login Process Id", f.LoginProcess)
		set("Process", f.Process)
		set("Command Line", f.CommandLine)
		if f.User != "" && !slices.Contains(users, f.User) {
			users = append(users, f.User)
		}
	}
	set("User Names", strings.Join(users, ", "))
	return p
}

// entities are what an alert is about, in the form of the workspace.
func (m Maker) entities(c *alert.Change) []map[string]any {
	var all []map[string]any
	seen := make(map[string]bool)
	add := func(key string, e map[string]any) {
		if !seen[key] {
			seen[key] = true
			e["$id"] = strconv.Itoa(len(all) + 1)
			all = append(all, e)
		}
	}
	if c.Device != "" {
		add("device", map[string]any{"DeviceId": c.Device, "IoTHub": map[string]any{"ResourceId": m.Resource(), "Type": "azure-resource"}, "Type": "iotdevice"})
	} else {
		add("hub", map[string]any{"ResourceId": m.Resource(), "Type": "azure-resource"})
	}
	ip := func(a string) {
		if a != "" {
			add("ip "+a, map[string]any{"Address": a, "Type": "ip"})
		}
	}
	ip(c.Remote)
	for i := range c.Evidence {
		f := FactsOf(&c.Evidence[i])
		ip(f.RemoteAddress)
		if f.User != "" {
			add("account "+f.User, map[string]any{"Name": f.User, "Type": "account"})
		}
		if f.CommandLine != "" || f.Process != "" {
			add("process "+f.Process+" "+f.CommandLine, map[string]any{"CommandLine": f.CommandLine, "ImageFile": map[string]any{"Name": f.Process, "Type": "file"}, "Type": "process"})
		}
	}
	return all
}

// Facts are what a row of evidence tells, whatever its form.
type Facts struct {
	RemoteAddress, RemotePort, LocalAddress, LocalPort string
	Protocol, Direction                                string
	User, LoginShell, LoginProcess                     string
	Process, CommandLine                               string
	Failed                                             bool // of a sign-in
}

func (f *Facts) source() string {
	if f.RemoteAddress == "" || f.RemotePort == "" {
		return ""
	}
	if strings.Contains(f.RemoteAddress, ":") {
		return "[" + f.RemoteAddress + "]:" + f.RemotePort
	}
	return f.RemoteAddress + ":" + f.RemotePort
}

// FactsOf reads evidence; what cannot be read tells nothing.
func FactsOf(e *alert.Evidence) (f Facts) {
	if e.Form == "" { // the hub's own words
		var own struct{ RemoteAddress, Protocol string }
		if json.Unmarshal(e.Details, &own) == nil {
			f.RemoteAddress, f.Protocol = own.RemoteAddress, own.Protocol
			if ap, err := netip.ParseAddrPort(own.RemoteAddress); err == nil {
				f.RemoteAddress, f.RemotePort = ap.Addr().Unmap().String(), strconv.Itoa(int(ap.Port()))
			}
		}
		return f
	}
	event, err := secmsg.DecodeDetails(e.Form, e.Event, e.Details)
	if err != nil {
		return f
	}
	for i := range event.Flows {
		fl := &event.Flows[i]
		f.Protocol, f.Direction, f.Process, f.CommandLine = fl.Protocol, fl.Direction, fl.Executable, fl.CommandLine
		if a := fl.Remote.Addr(); a.IsValid() {
			f.RemoteAddress, f.RemotePort = a.Unmap().String(), strconv.Itoa(int(fl.Remote.Port()))
		}
		if a := fl.Local.Addr(); a.IsValid() {
			f.LocalAddress, f.LocalPort = a.Unmap().String(), strconv.Itoa(int(fl.Local.Port()))
		}
	}
	for _, l := range event.Logins() {
		f.User, f.Failed = l.User, l.Failed
		if l.Remote != "" {
			f.RemoteAddress = l.Remote
		}
		var raw map[string]any
		if json.Unmarshal(e.Details, &raw) == nil {
			f.RemotePort, f.LocalPort = member(raw, "RemotePort", "remote_port"), member(raw, "LocalPort", "local_port")
			f.LoginShell, f.LoginProcess = member(raw, "Executable", "executable"), member(raw, "ProcessId", "process_id")
		}
	}
	for _, p := range event.Started() {
		f.User, f.Process, f.CommandLine = p.UserName, p.Executable, p.CommandLine
	}
	return f
}

// member is the first of some members of an object that is a text or a number.
func member(o map[string]any, names ...string) string {
	for _, n := range names {
		switch v := o[n].(type) {
		case string:
			return v
		case float64:
			return strconv.FormatFloat(v, 'f', -1, 64)
		}
	}
	return ""
}

// Events makes the rows of an event: one for each item of its payload, and one for an event without any.
func (m Maker) Events(e *record.Event) []Event {
	first := Event{
		TimeGenerated: e.Enqueued.UTC(), AgentVersion: e.AgentVersion, AssociatedResourceID: m.Resource(), AzureSubscriptionID: subscription, DeviceID: e.Device,
		IoTRawEventID: e.ID, RawEventName: e.Name, RawEventType: e.Kind, RawEventCategory: e.Category, IsEmpty: e.Empty, Type: RawEvents,
	}
	first.TimeStamp = e.DeviceTime()
	if len(e.Details) == 0 {
		return []Event{first}
	}
	rows := make([]Event, len(e.Details))
	for i := range rows {
		rows[i] = first
		rows[i].EventDetails = string(e.Details[i])
	}
	return rows
}

// Recommendation makes the row of a recommendation.
func (m Maker) Recommendation(r *posture.Recommendation) Recommendation {
	row := Recommendation{
		TimeGenerated: r.StatusChanged.UTC(), AssessedResourceID: m.about(r.Device, r.Module), DeviceID: r.Device,
		DiscoveredTimeUTC: r.Discovered.UTC(), FirstEvaluationDate: r.FirstEvaluated.UTC(), StatusChangeDate: r.StatusChanged.UTC(),
		RecommendationID: r.ID, RecommendationName: r.Type, RecommendationDisplayName: r.Title, RecommendationSeverity: string(r.Severity),
		RecommendationState: string(r.State), RecommendationAdditionalData: string(r.Data), Description: r.Description, Environment: vendor,
		PolicyDefinitionID: r.TypeID, ProviderName: provider, Properties: text(map[string]any{"moduleId": r.Module, "remediationSteps": list(r.Remediation)}),
		ResourceRegion: "", Type: Recommendations,
	}
	if !r.Resolved.IsZero() {
		t := r.Resolved.UTC()
		row.ResolvedTimeUTC = &t
	}
	return row
}

// list is never null.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// text is JSON in a column.
func text(v any) string { return string(Marshal(v)) }

// Marshal writes a row, or what stands in one, with texts as they are: json.Marshal would escape what HTML needs escaped.
func Marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("table: " + err.Error()) // texts, numbers and times of four-digit years always can be written
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
