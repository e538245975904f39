package table_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/table"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// The columns of defender §2.6, letter by letter.
var columns = map[table.Name]string{
	table.Alerts: `TimeGenerated, StartTime, EndTime, ProcessingEndTime, AlertName, DisplayName, AlertSeverity, Description, ProviderName, ProductName, ProductComponentName,
		VendorName, VendorOriginalId, SystemAlertId, ResourceId, SourceComputerId, CompromisedEntity, ConfidenceLevel, ConfidenceScore, IsIncident, Status, RemediationSteps,
		ExtendedProperties, Entities, ExtendedLinks, AlertLink, Tactics, Techniques, WorkspaceSubscriptionId, WorkspaceResourceGroup, Type`,
	table.RawEvents: `TimeGenerated, TimeStamp, AgentVersion, AssociatedResourceId, AzureSubscriptionId, DeviceId, IoTRawEventId, RawEventName, RawEventType, RawEventCategory,
		IsEmpty, EventDetails, Type`,
	table.Recommendations: `TimeGenerated, AssessedResourceId, DeviceId, DiscoveredTimeUTC, FirstEvaluationDate, StatusChangeDate, ResolvedTimeUTC, RecommendationId, RecommendationName,
		RecommendationDisplayName, RecommendationSeverity, RecommendationState, RecommendationAdditionalData, Description, Environment, IsSnapshot, PolicyDefinitionId, ProviderName,
		Properties, ResourceRegion, Type`,
}

// read reads a row and compares its columns.
func read(t *testing.T, name table.Name, row any) map[string]any {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(table.Marshal(row), &got); err != nil {
		t.Fatal(err)
	}
	var want []string
	for c := range strings.SplitSeq(columns[name], ",") {
		want = append(want, strings.TrimSpace(c))
	}
	slices.Sort(want)
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, want) {
		t.Errorf("%s has the columns %q, want %q", name, have, want)
	}
	if got["Type"] != string(name) {
		t.Errorf("%s is of the type %v", name, got["Type"])
	}
	return got
}

// inside reads JSON in a column.
func inside[T any](t *testing.T, row map[string]any, column string) (v T) {
	t.Helper()
	text, ok := row[column].(string)
	if !ok {
		t.Fatalf("%s is %v", column, row[column])
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", column, err)
	}
	return v
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestMaker_Alert(t *testing.T) {
	t.Parallel()
	c := &alert.Change{At: noon.Add(time.Hour), Alert: alert.Alert{
		ID: "0b1c", Type: "IoT_TiConnection", Severity: alert.High, Title: "Suspicious <IP>", Description: "d", Device: "lamp", Module: "m", Group: "plant", Indicator: "203.0.113.0/24",
		Remote: "203.0.113.5", Count: 3, FirstSeen: noon, LastSeen: noon.Add(time.Minute), Status: alert.Open,
		Evidence: []alert.Evidence{
			{Event: "NetworkActivity", Form: secmsg.FlatBuffers, Details: json.RawMessage(`{"local_address":"10.0.0.1","local_port":40000,"remote_address":"203.0.113.5","remote_port":443,"protocol":"TCP","commandline":"nc"}`)},
			{Event: "Login", Form: secmsg.JSON, Details: json.RawMessage(`{"ProcessId":7,"Operation":"Login","Executable":"/bin/sh","Result":"Fail","UserName":"root","RemoteAddress":"198.51.100.1","RemotePort":"22","LocalPort":"22"}`)},
			{Event: "Login", Form: secmsg.JSON, Details: json.RawMessage(`{"Operation":"Login","Result":"Success","UserName":"admin"}`)},
			{Event: "Process", Form: secmsg.FlatBuffers, Details: json.RawMessage(`broken`)},
		},
	}}
	c.Explain()
	row := read(t, table.Alerts, table.Maker{Host: "hub.example.net", Product: table.Azure}.Alert(c))
	for column, want := range map[string]any{
		"TimeGenerated": "2026-01-02T13:00:00Z", "StartTime": "2026-01-02T12:00:00Z", "EndTime": "2026-01-02T12:01:00Z", "AlertName": "IoT_TiConnection", "DisplayName": "Suspicious <IP>",
		"AlertSeverity": "High", "ProductName": "Azure Security Center for IoT", "SystemAlertId": "0b1c", "CompromisedEntity": "lamp/m", "Status": "New", "IsIncident": false, "ConfidenceScore": nil,
		"ResourceId": "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/vauban/providers/Microsoft.Devices/IotHubs/hub", "Tactics": "CommandAndControl",
	} {
		if row[column] != want {
			t.Errorf("%s is %v, want %v", column, row[column], want)
		}
	}
	p := inside[map[string]string](t, row, "ExtendedProperties")
	for key, want := range map[string]string{
		"DeviceId": "lamp", "Remote Address": "203.0.113.5", "Remote Port": "443", "Local Port": "40000", "Full Source Address": "203.0.113.5:443", "User Name": "root", "User Names": "root, admin",
		"Login Shell": "/bin/sh", "Login Process Id": "7", "Indicator": "203.0.113.0/24", "Count": "3", "Command Line": "nc",
	} {
		if p[key] != want {
			t.Errorf("%q is %q, want %q", key, p[key], want)
		}
	}
	if es := inside[[]map[string]any](t, row, "Entities"); len(es) != 6 || es[0]["Type"] != "iotdevice" || es[0]["$id"] != "1" || es[1]["Address"] != "203.0.113.5" {
		t.Errorf("entities %v", es)
	}
	if ts := inside[[]string](t, row, "Techniques"); !slices.Equal(ts, c.Techniques) {
		t.Errorf("techniques %q", ts)
	}
	if steps := inside[[]string](t, row, "RemediationSteps"); !slices.Equal(steps, c.Remediation) {
		t.Errorf("steps %q", steps)
	}
	for status, want := range map[alert.Status]string{alert.Dismissed: "Dismissed", alert.Resolved: "Resolved", alert.Suppressed: "Dismissed"} {
		c.Status = status
		c.Device, c.Module = "", ""
		if row := read(t, table.Alerts, table.Maker{Host: "hub.example.net"}.Alert(c)); row["Status"] != want || row["ProductName"] != "Vauban" || row["CompromisedEntity"] != "hub" {
			t.Errorf("%s: %v, %v, %v", status, row["Status"], row["ProductName"], row["CompromisedEntity"])
		}
	}
	if _, err := table.ProductName("sentinel"); err == nil {
		t.Error("a product that there is not")
	}
}

// What the hub sees itself has the port beside the address: an entity is an address.
func TestMaker_AlertOfTheHub(t *testing.T) {
	t.Parallel()
	c := &alert.Change{At: noon, Alert: alert.Alert{ID: "1", Type: alert.InvalidToken, Device: "lamp", Evidence: []alert.Evidence{
		{Event: alert.InvalidToken, Details: json.RawMessage(`{"remoteAddress":"[2001:db8::1]:4711","protocol":"mqtt"}`)},
	}}}
	row := read(t, table.Alerts, table.Maker{Host: "hub.example.net"}.Alert(c))
	if es := inside[[]map[string]any](t, row, "Entities"); len(es) != 2 || es[1]["Address"] != "2001:db8::1" {
		t.Errorf("entities %v", es)
	}
	if p := inside[map[string]string](t, row, "ExtendedProperties"); p["Remote Address"] != "2001:db8::1" || p["Remote Port"] != "4711" {
		t.Errorf("extended %v", p)
	}
}

// Evidence of the Linux agent tells as much as that of others.
func TestFactsOf_Linux(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		details string
		want    table.Facts
	}{
		"NetworkActivity": {
			`{"local_address":"10.0.0.1","local_port":22,"remote_address":"2001:db8::5","remote_port":9,"protocol":"TCP","bytes_in":1,"direction":"In","executable":"/usr/sbin/sshd","commandline":"sshd"}`,
			table.Facts{RemoteAddress: "2001:db8::5", RemotePort: "9", LocalAddress: "10.0.0.1", LocalPort: "22", Protocol: "TCP", Direction: "In", Process: "/usr/sbin/sshd", CommandLine: "sshd"},
		},
		"Process": {`{"executable":"/bin/sh","user_name":"ada","commandline":"sh -c x","event_type":"EXEC"}`, table.Facts{User: "ada", Process: "/bin/sh", CommandLine: "sh -c x"}},
		"Login": {
			`{"operation":"LoginFailed","user_name":"eve","executable":"sshd","process_id":7,"remote_address":"203.0.113.5","hit_count":2}`,
			table.Facts{User: "eve", Failed: true, RemoteAddress: "203.0.113.5", LoginShell: "sshd", LoginProcess: "7"},
		},
	} {
		if got := table.FactsOf(&alert.Evidence{Event: name, Form: secmsg.FlatBuffers, Details: json.RawMessage(c.details)}); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestMaker_Events(t *testing.T) {
	t.Parallel()
	e := &record.Event{
		Place: record.Place{Message: 9}, Device: "lamp", Enqueued: noon, Time: noon.Add(-time.Hour), ID: "x", Name: "ListeningPorts", Kind: "Security", Category: "Periodic", AgentVersion: "3.5.4",
		Details: []json.RawMessage{json.RawMessage(`{"a":"<1>"}`), json.RawMessage(`{"a":2}`)},
	}
	m := table.Maker{Host: "hub.example.net"}
	rows := m.Events(e)
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	row := read(t, table.RawEvents, rows[0])
	for column, want := range map[string]any{
		"TimeGenerated": "2026-01-02T12:00:00Z", "TimeStamp": "2026-01-02T11:00:00Z", "AgentVersion": "3.5.4", "DeviceId": "lamp", "IoTRawEventId": "x", "RawEventName": "ListeningPorts",
		"RawEventType": "Security", "RawEventCategory": "Periodic", "IsEmpty": false, "EventDetails": `{"a":"<1>"}`,
	} {
		if row[column] != want {
			t.Errorf("%s is %v, want %v", column, row[column], want)
		}
	}
	if read(t, table.RawEvents, rows[1])["EventDetails"] != `{"a":2}` {
		t.Errorf("the second row: %+v", rows[1])
	}
	// A clock that says a year that JSON does not have must not break the table.
	for _, year := range []int{10000, -1} {
		heartbeat := &record.Event{Device: "lamp", Enqueued: noon, Time: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), Name: "Heartbeat", Empty: true}
		if row := read(t, table.RawEvents, m.Events(heartbeat)[0]); row["IsEmpty"] != true || row["TimeStamp"] != nil || row["EventDetails"] != "" {
			t.Errorf("a heartbeat of the year %d: %v", year, row)
		}
	}
}

func TestMaker_Recommendation(t *testing.T) {
	t.Parallel()
	r := &posture.Recommendation{
		ID: "id", Type: posture.OpenPorts, Device: "lamp", Module: "m", Severity: alert.Medium, State: posture.Resolved, Discovered: noon, FirstEvaluated: noon.Add(-time.Hour),
		StatusChanged: noon.Add(time.Hour), Resolved: noon.Add(time.Hour), Data: json.RawMessage(`{"Rules":"[]"}`),
	}
	r.Explain()
	m := table.Maker{Host: "hub.example.net"}
	row := read(t, table.Recommendations, m.Recommendation(r))
	for column, want := range map[string]any{
		"RecommendationId": "id", "RecommendationName": "IoT_OpenPorts", "RecommendationState": "Resolved", "RecommendationSeverity": "Medium", "DiscoveredTimeUTC": "2026-01-02T12:00:00Z",
		"FirstEvaluationDate": "2026-01-02T11:00:00Z", "ResolvedTimeUTC": "2026-01-02T13:00:00Z", "RecommendationAdditionalData": `{"Rules":"[]"}`, "DeviceId": "lamp", "PolicyDefinitionId": r.TypeID,
		"RecommendationDisplayName": r.Title, "Description": r.Description, "IsSnapshot": false,
		"AssessedResourceId": m.Resource() + "/devices/lamp/modules/m",
	} {
		if row[column] != want {
			t.Errorf("%s is %v, want %v", column, row[column], want)
		}
	}
	r.State, r.Resolved, r.Device, r.Module = posture.Active, time.Time{}, "", ""
	if row := read(t, table.Recommendations, m.Recommendation(r)); row["ResolvedTimeUTC"] != nil || row["AssessedResourceId"] != m.Resource() || row["RecommendationState"] != "Active" {
		t.Errorf("active, of the hub: %v", row)
	}
}
