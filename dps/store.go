// Package dps is the Device Provisioning Service: enrollments, attestation, allocation
// and the assignment of devices to hubs (dps.md).
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
	Type         string // symmetricKey, x509, tpm
	PrimaryKey   secret.Secret
	SecondaryKey secret.Secret
	// Certificates in PEM. For an individual they are leaves, for a group CAs.
	PrimaryCertificate   string
	SecondaryCertificate string
	// Names of [CA]s, in place of a group's certificates.
	PrimaryReference   string
	SecondaryReference string
	// Public areas of a TPM's keys, TPM2B_PUBLIC. The storage root key may be absent.
	EndorsementKey []byte
	StorageRootKey []byte
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
	Allocation  string // hashed, geoLatency, static, custom
	Webhook     Webhook
	HubName     string // iotHubHostName, as given
	Hubs        []string
	Issuing     string          // credentialPolicyName: who signs the devices' certificates; empty: nobody
	Info        json.RawMessage // optionalDeviceInformation
	Created     time.Time
	Updated     time.Time
}

// Webhook is asked where devices go, when the allocation is custom (dps §9.2).
type Webhook struct {
	URL     string `json:"webhookUrl"`
	Version string `json:"apiVersion"`
}

// CA is a certificate authority that the operator uploaded, for groups to refer to by its name. While it is not
// verified it proves nobody (dps §8.3).
type CA struct {
	Name        string
	Certificate string // PEM
	Verified    bool
	Code        string // that a verification certificate must name; empty: none was asked for
	CodeExpires time.Time
	ETag        iot.ETag
	Created     time.Time
	Updated     time.Time
}

// LinkedHub is a hub that devices may be assigned to.
type LinkedHub struct {
	Host string // the name that devices connect to
	// ConnectionString of a policy that may write identities and twins. Unset: Host is this installation's own hub.
	ConnectionString secret.Secret
	Address          string   // host:port of its HTTPS endpoint; empty: port 443 of Host
	Authority        string   // PEM of the CA that its server certificate is checked against; empty: those of the system
	Weight           int      // of hashed allocation
	Excluded         bool     // it takes only devices whose enrollment names it
	Networks         []string // CIDR: devices there are near it, for geoLatency
	Created          time.Time
	Updated          time.Time
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
	Payload   json.RawMessage // of a webhook; nil: none
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
	// PutEnrollments is PutEnrollment for many of one kind, in one transaction. change is called for each name in
	// turn, sees what stands there, and its error, which becomes the name's, leaves that one as it is. No two of the
	// names may be the same.
	PutEnrollments(ctx context.Context, group bool, names []string, change func(i int, now *Enrollment) (Enrollment, error)) ([]error, error)
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

	// CAs lists all, in order of their names, whose case counts.
	CAs(ctx context.Context) ([]CA, error)
	// PutCA creates or replaces, as PutEnrollment does.
	PutCA(ctx context.Context, name string, change func(*CA) (CA, error)) (CA, error)
	// DeleteCA removes one when check returns nil; fault.NotFound.
	DeleteCA(ctx context.Context, name string, check func(CA) error) error

	// LinkedHubs lists all, in order of their folded hosts.
	LinkedHubs(ctx context.Context) ([]LinkedHub, error)
	// PutLinkedHub creates or replaces, as PutEnrollment does.
	PutLinkedHub(ctx context.Context, host string, change func(*LinkedHub) (LinkedHub, error)) (LinkedHub, error)
	// DeleteLinkedHub removes one; fault.NotFound.
	DeleteLinkedHub(ctx context.Context, host string) error
}
