package fleet

import (
	"encoding/json"

	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// builtins are the members of a twin document outside its sections. Their names match in any case and
// come out as spelled here (hub-service §4.2).
var builtins = []string{
	"deviceId", "moduleId", "modelId", "etag", "deviceEtag", "status", "statusReason", "statusUpdateTime",
	"connectionState", "connectionStateUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint",
	"version", "tags", "properties", "capabilities", "deviceScope", "parentScopes", "configurations",
}

var sections = []string{"desired", "reported"}

func builtin(name string) string { return query.Pick(name, builtins) }

// outputName is the member name of a path without alias.
func outputName(p query.Path) string {
	name := p[len(p)-1].Name
	if len(p) == 1 {
		return builtin(name)
	}
	return name
}

// document is a row as the query language sees it.
type document struct{ *Row }

// Find implements query.Document.
func (d document) Find(p query.Path) query.Value {
	if len(p) == 0 {
		return query.Value{}
	}
	name, rest := builtin(p[0].Name), p[1:]
	switch name {
	case "tags":
		return tree(d.Twin.Tags).Find(rest)
	case "properties":
		return d.properties(rest)
	case "configurations":
		return query.JSON(string(d.Twin.Configurations)).Find(rest)
	}
	return d.identity(name).Find(rest)
}

func tree(text json.RawMessage) query.Value {
	if len(text) == 0 {
		return query.JSON("{}")
	}
	return query.JSON(string(text))
}

func (d document) properties(p query.Path) query.Value {
	if len(p) == 0 {
		return query.JSON(string(d.Twin.Properties()))
	}
	values, metadata, version := d.Twin.Desired, d.Twin.DesiredMetadata, d.Twin.DesiredVersion
	switch query.Pick(p[0].Name, sections) {
	case "desired":
	case "reported":
		values, metadata, version = d.Twin.Reported, d.Twin.ReportedMetadata, d.Twin.ReportedVersion
	default:
		return query.Value{}
	}
	if len(p) == 1 {
		return query.JSON(string(d.Twin.Properties())).Find(p)
	}
	switch p[1].Name {
	case "$version":
		return query.Int(version).Find(p[2:])
	case "$metadata":
		return tree(metadata).Find(p[2:])
	}
	return tree(values).Find(p[1:])
}

func (d document) identity(name string) query.Value {
	id := &d.Identity
	switch name {
	case "deviceId":
		return query.Text(d.Twin.ID.Device)
	case "moduleId":
		return optional(d.Twin.ID.Module)
	case "modelId":
		return query.Text(d.Twin.ModelID)
	case "etag":
		return query.Text(string(d.Twin.ETag()))
	case "version":
		return query.Int(d.Twin.Version)
	case "deviceEtag":
		return query.Text(string(id.ETag))
	case "status":
		return query.Text(string(id.Status))
	case "statusReason":
		return optional(id.StatusReason)
	case "statusUpdateTime":
		return query.Text(iot.FormatTime(id.StatusTime))
	case "connectionState":
		return query.Text(registry.ConnectionState(*id))
	case "connectionStateUpdatedTime":
		return query.Text(iot.FormatTime(id.ConnectionTime))
	case "lastActivityTime":
		return query.Text(iot.FormatTime(id.LastActivity))
	case "cloudToDeviceMessageCount":
		return query.Int(int64(id.Pending))
	case "authenticationType":
		return query.Text(string(id.Authentication.Type))
	case "deviceScope":
		return optional(id.Scope)
	case "x509Thumbprint", "capabilities", "parentScopes":
		// Seldom asked for: read from the document itself.
		return query.JSON(string(registry.TwinDocument(*id, d.Twin))).Member(name)
	}
	return query.Value{}
}

// optional is undefined for what is not set, as the document has no such member or null.
func optional(s string) query.Value {
	if s == "" {
		return query.Value{}
	}
	return query.Text(s)
}
