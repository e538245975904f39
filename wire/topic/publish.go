package topic

import (
	"fmt"
	"strings"
)

// Kind says what a device publishes.
type Kind byte

// Kinds of topic a device publishes on, with their row in hub-device §3.1 or place in dps §4.2.
const (
	Unknown           Kind = iota
	Telemetry              // rows 1 and 2
	TwinGet                // row 5
	TwinPatchReported      // row 6
	MethodResult           // row 10
	CredentialRequest      // row 11
	DPSRegister            // register
	DPSStatus              // status
)

// Publish is a topic a device published on. Which fields are set depends on Kind.
type Publish struct {
	Kind           Kind
	Device, Module string // Telemetry; Module is empty for a device
	Bag            string // Telemetry, for bag.Parse
	RID            string // all but Telemetry, never empty
	Version        int64  // TwinPatchReported: the expected base version
	HasVersion     bool
	Status         int    // MethodResult
	OperationID    string // DPSStatus; empty when the device left it out
}

// ParsePublish reads the topic of a PUBLISH from a device. The error is ErrUnknown, also for
// a number that is none, or ErrNoRID.
func ParsePublish(t string) (Publish, error) {
	var p Publish
	var ok bool
	switch {
	case strings.HasPrefix(t, devices):
		p, ok = parseTelemetry(t[len(devices):])
	case strings.HasPrefix(t, "$"):
		p, ok = parseRequest(t)
	}
	if !ok {
		return Publish{}, unknown(t)
	}
	if p.Kind != Telemetry && p.RID == "" {
		return Publish{}, ErrNoRID
	}
	return p, nil
}

// parseTelemetry reads rows 1 and 2 of hub-device §3.1 after "devices/".
func parseTelemetry(s string) (p Publish, ok bool) {
	p.Kind = Telemetry
	if p.Device, s, ok = cutID(s); !ok {
		return Publish{}, false
	}
	if m, found := strings.CutPrefix(s, modules); found {
		if p.Module, s, ok = cutID(m); !ok {
			return Publish{}, false
		}
	}
	if s, ok = strings.CutPrefix(s, events); !ok {
		return Publish{}, false
	}
	if s == "" {
		return p, true
	}
	p.Bag, ok = strings.CutPrefix(s, "/")
	if !ok {
		return Publish{}, false
	}
	return p, true
}

// parseRequest reads the topics that carry a $rid.
func parseRequest(t string) (p Publish, ok bool) {
	var q string
	switch {
	case strings.HasPrefix(t, twinGet):
		p.Kind = TwinGet
		q, ok = query(t[len(twinGet):])
	case strings.HasPrefix(t, twinPatch):
		p.Kind = TwinPatchReported
		q, ok = query(t[len(twinPatch):])
		if v := param(q, versionKey); ok && v != "" {
			p.HasVersion = true
			p.Version, ok = parseVersion(v)
		}
	case strings.HasPrefix(t, methodsRes):
		p.Kind = MethodResult
		p.Status, q, ok = parseResult(t[len(methodsRes):])
	case strings.HasPrefix(t, credentialPost):
		p.Kind = CredentialRequest
		q, ok = query(t[len(credentialPost):])
	case strings.HasPrefix(t, dpsRegister):
		p.Kind = DPSRegister
		q, ok = query(t[len(dpsRegister):])
	case strings.HasPrefix(t, dpsStatus):
		p.Kind = DPSStatus
		q, ok = query(t[len(dpsStatus):])
		p.OperationID = param(q, operationIDKey)
	}
	if !ok {
		return Publish{}, false
	}
	p.RID = param(q, ridKey)
	return p, true
}

// parseResult reads {status}/?{query}, the end of every answer.
func parseResult(s string) (status int, q string, ok bool) {
	text, _, _ := strings.Cut(s, "/")
	if status, ok = parseStatus(text); !ok {
		return 0, "", false
	}
	q, ok = query(s[len(text):])
	return status, q, ok
}

// unknown names the topic up to a length that is safe to log.
func unknown(t string) error {
	const most = 128
	if len(t) > most {
		return fmt.Errorf("%w %q...", ErrUnknown, t[:most])
	}
	return fmt.Errorf("%w %q", ErrUnknown, t)
}
