package transfer

import (
	"context"
	"encoding/json"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// line is an identity with its twin as an export writes it (hub-service §2.7).
type line struct {
	ID             string           `json:"id"`
	ModuleID       string           `json:"moduleId,omitempty"`
	ETag           iot.ETag         `json:"eTag"`
	Mode           string           `json:"importMode"`
	Status         registry.Status  `json:"status,omitempty"`
	StatusReason   string           `json:"statusReason,omitempty"`
	Authentication authentication   `json:"authentication"`
	Capabilities   *capabilities    `json:"capabilities,omitempty"`
	Scope          string           `json:"deviceScope,omitempty"`
	ParentScopes   []string         `json:"parentScopes,omitempty"`
	ManagedBy      string           `json:"managedBy,omitempty"`
	TwinETag       iot.ETag         `json:"twinETag"`
	Tags           json.RawMessage  `json:"tags,omitempty"`
	Properties     *json.RawMessage `json:"properties,omitempty"`
}

type authentication struct {
	Type       registry.AuthType `json:"type"`
	Keys       pair              `json:"symmetricKey"`
	Thumbprint thumbprints       `json:"x509Thumbprint"`
}

type pair struct {
	Primary   *string `json:"primaryKey"`
	Secondary *string `json:"secondaryKey"`
}

type thumbprints struct {
	Primary   *string `json:"primaryThumbprint"`
	Secondary *string `json:"secondaryThumbprint"`
}

type capabilities struct {
	Edge bool `json:"iotEdge"`
}

// ExportLine is the line of a record, without a line feed.
func ExportLine(r *registry.Record, keys bool) []byte {
	d, t := &r.Identity, &r.Twin
	a := &d.Authentication
	properties := t.Properties()
	l := line{
		ID: d.ID.Device, ModuleID: d.ID.Module, ETag: d.ETag, Mode: "updateIfMatchETag",
		Authentication: authentication{Type: a.Type, Thumbprint: thumbprints{orNull(a.PrimaryThumbprint), orNull(a.SecondaryThumbprint)}},
		TwinETag:       t.ETag(), Tags: t.Tags, Properties: &properties,
	}
	if len(l.Tags) <= len("{}") {
		l.Tags = json.RawMessage("{}")
	}
	if keys {
		l.Authentication.Keys = pair{orNull(a.PrimaryKey.Base64()), orNull(a.SecondaryKey.Base64())}
	}
	if d.ID.Module == "" {
		l.Status, l.StatusReason, l.Capabilities = d.Status, d.StatusReason, &capabilities{d.Edge}
		l.Scope, l.ParentScopes = d.Scope, d.ParentScopes
	} else {
		l.ManagedBy = d.ManagedBy
	}
	return marshal(l)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// page is how many records are read at once.
const page = 500

func (s *Service) export(ctx context.Context, j Job, progress func(done, of int64)) error {
	out, err := s.cfg.Blobs.Open(j.Output, j.IdentityBased)
	if err != nil {
		return err
	}
	if j.Configurations {
		if err := s.exportConfigurations(ctx, j, out); err != nil {
			return err
		}
	}
	statistics, err := s.cfg.Hub.Statistics(ctx)
	if err != nil {
		return err
	}
	up, err := out.Put(ctx, j.OutputBlob)
	if err != nil {
		return err
	}
	defer up.Abort()
	var after iot.ID
	var devices int64
	for {
		rs, err := s.cfg.Hub.Records(ctx, after, page)
		if err != nil {
			return err
		}
		for i := range rs {
			if rs[i].Identity.ID.Module == "" {
				devices++
			}
			if _, err := up.Write(append(ExportLine(&rs[i], !j.ExcludeKeys), '\n')); err != nil {
				return err
			}
		}
		if len(rs) < page {
			break
		}
		after = rs[len(rs)-1].Identity.ID
		progress(devices, int64(statistics.Total))
	}
	return up.Commit()
}

func (s *Service) exportConfigurations(ctx context.Context, j Job, out Container) error {
	if s.cfg.Configurations == nil {
		return fault.New(fault.Invalid, "this hub has no configurations")
	}
	docs, err := s.cfg.Configurations.Export(ctx)
	if err != nil {
		return err
	}
	up, err := out.Put(ctx, j.ConfigurationsBlob)
	if err != nil {
		return err
	}
	defer up.Abort()
	for _, d := range docs {
		if _, err := up.Write(append(d, '\n')); err != nil {
			return err
		}
	}
	return up.Commit()
}
