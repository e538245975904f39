package registry

import (
	"bytes"
	"encoding/json"

	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Documents have their members in Azure's order and spelling; absent values are explicit
// nulls, since clients read them unguarded (hub-service §2.4).

type authenticationDocument struct {
	SymmetricKey   symmetricKeyDocument `json:"symmetricKey"`
	X509Thumbprint thumbprintDocument   `json:"x509Thumbprint"`
	Type           AuthType             `json:"type"`
}

type symmetricKeyDocument struct {
	Primary   *string `json:"primaryKey"`
	Secondary *string `json:"secondaryKey"`
}

type thumbprintDocument struct {
	Primary   *string `json:"primaryThumbprint"`
	Secondary *string `json:"secondaryThumbprint"`
}

type capabilitiesDocument struct {
	Edge bool `json:"iotEdge"`
}

type identityDocument struct {
	DeviceID             string                 `json:"deviceId"`
	GenerationID         string                 `json:"generationId"`
	ETag                 iot.ETag               `json:"etag"`
	ConnectionState      string                 `json:"connectionState"`
	Status               Status                 `json:"status"`
	StatusReason         *string                `json:"statusReason"`
	ConnectionStateTime  string                 `json:"connectionStateUpdatedTime"`
	StatusTime           string                 `json:"statusUpdatedTime"`
	LastActivity         string                 `json:"lastActivityTime"`
	CloudToDeviceWaiting int                    `json:"cloudToDeviceMessageCount"`
	Authentication       authenticationDocument `json:"authentication"`
	Capabilities         capabilitiesDocument   `json:"capabilities"`
	DeviceScope          string                 `json:"deviceScope,omitempty"`
	ParentScopes         []string               `json:"parentScopes"`
}

// MarshalDocument is the JSON document of the device or module (hub-service §2.3). It holds the keys.
func (d Identity) MarshalDocument() []byte {
	if d.ID.Module != "" {
		return d.moduleDocument()
	}
	return marshal(identityDocument{
		DeviceID: d.ID.Device, GenerationID: d.Generation, ETag: d.ETag,
		ConnectionState: ConnectionState(d), Status: d.Status, StatusReason: orNull(d.StatusReason),
		ConnectionStateTime: iot.FormatTime(d.ConnectionTime), StatusTime: iot.FormatTime(d.StatusTime),
		LastActivity: iot.FormatTime(d.LastActivity), CloudToDeviceWaiting: d.Pending,
		Authentication: d.Authentication.document(),
		Capabilities:   capabilitiesDocument{d.Edge}, DeviceScope: d.Scope, ParentScopes: orEmpty(d.ParentScopes),
	})
}

func (a Authentication) document() authenticationDocument {
	return authenticationDocument{
		SymmetricKey:   symmetricKeyDocument{keyOrNull(a.PrimaryKey), keyOrNull(a.SecondaryKey)},
		X509Thumbprint: thumbprints(a), Type: a.Type,
	}
}

type twinDocument struct {
	DeviceID             string             `json:"deviceId"`
	ModuleID             string             `json:"moduleId,omitempty"`
	ModelID              string             `json:"modelId"`
	ETag                 iot.ETag           `json:"etag"`
	DeviceETag           iot.ETag           `json:"deviceEtag,omitempty"`
	Status               Status             `json:"status"`
	StatusReason         *string            `json:"statusReason"`
	StatusTime           string             `json:"statusUpdateTime"`
	ConnectionState      string             `json:"connectionState"`
	LastActivity         string             `json:"lastActivityTime"`
	CloudToDeviceWaiting int                `json:"cloudToDeviceMessageCount"`
	AuthenticationType   AuthType           `json:"authenticationType"`
	X509Thumbprint       thumbprintDocument `json:"x509Thumbprint"`
	Version              int64              `json:"version"`
	Tags                 json.RawMessage    `json:"tags"`
	Properties           json.RawMessage    `json:"properties"`
	Configurations       json.RawMessage    `json:"configurations,omitempty"`
	// Of devices only:
	Capabilities *capabilitiesDocument `json:"capabilities,omitempty"`
	DeviceScope  string                `json:"deviceScope,omitempty"`
	ParentScopes *[]string             `json:"parentScopes,omitempty"`
}

// TwinDocument is the twin of a device or module as services read it: its identity's state and its
// properties in one (hub-service §3.2). It holds no key.
func TwinDocument(d Identity, t twin.Twin) []byte {
	tags := t.Tags
	if len(tags) == 0 {
		tags = json.RawMessage("{}")
	}
	doc := twinDocument{
		DeviceID: d.ID.Device, ModuleID: d.ID.Module, ModelID: t.ModelID, ETag: t.ETag(),
		Status: d.Status, StatusReason: orNull(d.StatusReason), StatusTime: iot.FormatTime(d.StatusTime),
		ConnectionState: ConnectionState(d), LastActivity: iot.FormatTime(d.LastActivity), CloudToDeviceWaiting: d.Pending,
		AuthenticationType: d.Authentication.Type, X509Thumbprint: thumbprints(d.Authentication),
		Version: t.Version, Tags: tags, Properties: t.Properties(), Configurations: t.Configurations,
	}
	if d.ID.Module == "" {
		scopes := orEmpty(d.ParentScopes)
		doc.DeviceETag, doc.Capabilities, doc.DeviceScope, doc.ParentScopes = d.ETag, &capabilitiesDocument{d.Edge}, d.Scope, &scopes
	}
	return marshal(doc)
}

// ConnectionState is an identity's presence in Azure's words.
func ConnectionState(d Identity) string {
	if d.Connected {
		return "Connected"
	}
	return "Disconnected"
}

func thumbprints(a Authentication) thumbprintDocument {
	return thumbprintDocument{orNull(a.PrimaryThumbprint), orNull(a.SecondaryThumbprint)}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func keyOrNull(k secret.Secret) *string {
	if k.IsZero() {
		return nil
	}
	return orNull(k.Base64())
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// marshal leaves <, > and & alone: what a device wrote is read back as it was.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // strings, numbers and trees that twin wrote always marshal
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
