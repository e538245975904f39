// Package dps is the Device Provisioning Service: enrollments, attestation
// and the assignment of devices to the hub (dps.md).
package dps

import (
	"context"
	"encoding/json"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Attestation is how a device or a group proves itself (dps §7, §8).
type Attestation struct {
	Type         string // symmetricKey, x509
	PrimaryKey   secret.Secret
	SecondaryKey secret.Secret
	// Certificates in PEM. For an individual they are leaves, for a group CAs.
	PrimaryCertificate   string
	SecondaryCertificate string
}

// ReprovisionPolicy says what happens when a device registers again (dps §9.3).
type ReprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// InitialTwin is written when a device is first assigned. Both are JSON objects or nil.
type InitialTwin struct {
	Tags    json.RawMessage
	Desired json.RawMessage
}

// Enrollment is an individual enrollment or an enrollment group.
type Enrollment struct {
	// Name is the registration id of an individual as it was typed, or the group id.
	Name        string
	Group       bool
	ETag        iot.ETag
	DeviceID    string // individual only; empty: the registration id
	Enabled     bool
	Attestation Attestation
	Edge        bool
	Twin        InitialTwin
	Reprovision ReprovisionPolicy
	Allocation  string // hashed, geoLatency, static
	HubName     string // iotHubHostName, as given
	Hubs        []string
	Info        json.RawMessage // optionalDeviceInformation
	Created     time.Time
	Updated     time.Time
}

// Registration is the record of one registered device.
type Registration struct {
	ID        string // registration id as received
	Group     string // enrollment group that admitted it, or empty
	DeviceID  string
	Hub       string
	Status    string // assigned, failed, disabled
	Substatus string
	ErrorCode int
	Error     string
	ETag      iot.ETag
	Created   time.Time
	Updated   time.Time
}

// Store keeps enrollments and registrations. Names compare without regard to case
// (dps §1.3) and keep their spelling. Every write is on disk when the call returns.
type Store interface {
	// Enrollment returns one; fault.NotFound.
	Enrollment(ctx context.Context, group bool, name string) (Enrollment, error)
	// PutEnrollment creates or replaces in one transaction: change sees the current
	// one, or nil, and returns the next. It must be pure; its error is returned as it is.
	PutEnrollment(ctx context.Context, group bool, name string, change func(*Enrollment) (Enrollment, error)) (Enrollment, error)
	// DeleteEnrollment removes one when check returns nil; fault.NotFound.
	DeleteEnrollment(ctx context.Context, group bool, name string, check func(Enrollment) error) error
	// Enrollments lists in order of folded name, after the given name ("" from the start), at most limit.
	Enrollments(ctx context.Context, group bool, after string, limit int) ([]Enrollment, error)
	// Registration returns one; fault.NotFound.
	Registration(ctx context.Context, id string) (Registration, error)
	// PutRegistration creates or replaces, as PutEnrollment does.
	PutRegistration(ctx context.Context, id string, change func(*Registration) (Registration, error)) (Registration, error)
	// DeleteRegistration forgets one when check returns nil; fault.NotFound.
	DeleteRegistration(ctx context.Context, id string, check func(Registration) error) error
	// Registrations lists the records of one group, ordered by folded id, after the given one, at most limit.
	Registrations(ctx context.Context, group, after string, limit int) ([]Registration, error)
}
