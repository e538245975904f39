package registry

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// AuthType is how a device authenticates (hub-service §2.4).
type AuthType string

// The authentication types, in Azure's spelling.
const (
	SAS                  AuthType = "sas"
	SelfSigned           AuthType = "selfSigned"
	CertificateAuthority AuthType = "certificateAuthority"
	None                 AuthType = "none"
)

// Authentication holds the keys or thumbprints of one identity.
// Thumbprints are upper-case hex without colons; empty means unset.
type Authentication struct {
	Type                AuthType
	PrimaryKey          secret.Secret
	SecondaryKey        secret.Secret
	PrimaryThumbprint   string
	SecondaryThumbprint string
}

// Status says whether an identity may connect.
type Status string

// The two statuses.
const (
	Enabled  Status = "enabled"
	Disabled Status = "disabled"
)

// Identity is one device or module as the registry keeps it.
type Identity struct {
	ID             iot.ID
	Generation     string // decimal, assigned at creation; differs for a re-created device
	ETag           iot.ETag
	Status         Status
	StatusReason   string
	StatusTime     time.Time
	Authentication Authentication
	Edge           bool // capabilities.iotEdge
	Scope          string
	ParentScopes   []string
	ManagedBy      string // of a module: who looks after it; empty when nobody says
	// Containment is that of the device, of a module too. Stores fill it on reads of one, and Contain writes it.
	Containment Level

	// Presence is written by sessions, never by identity updates, and leaves the ETag alone.
	Connected      bool
	ConnectionTime time.Time
	LastActivity   time.Time
	// Pending is the number of cloud-to-device messages that wait. Stores fill it on reads.
	Pending int
}

// Statistics counts devices (not modules).
type Statistics struct{ Total, Enabled, Disabled, Connected int }

// Store keeps identities and, because they are created and deleted together, makes
// their first twin. Every write is on disk when the call returns. Times are kept to
// the microsecond, in UTC. A Store never reads a clock.
type Store interface {
	// Create adds an identity with its first twin, whose facts are kept, and modules below it with empty ones, in one step. Failures are
	// fault.AlreadyExists when the id is taken, fault.NotFound when a module has no device, and ErrTooManyModules.
	Create(ctx context.Context, d Identity, t twin.Twin, below ...Identity) error
	// Identity returns one identity; fault.NotFound.
	Identity(ctx context.Context, id iot.ID) (Identity, error)
	// Update reads, changes and writes in one transaction; fault.NotFound. change must be
	// pure: it may run more than once. An error of change is returned as it is and nothing is
	// written. Presence fields and ID are not written.
	Update(ctx context.Context, id iot.ID, change func(Identity) (Identity, error)) (Identity, error)
	// Delete removes an identity, its modules, twins, queued messages and stored
	// sessions, when check (which sees the current identity) returns nil; fault.NotFound. What gone, which may be nil,
	// returns for each identity that goes is kept for the log in the same transaction: modules first.
	Delete(ctx context.Context, id iot.ID, check func(Identity) error, gone func(Identity, twin.Twin) []iot.Message) error
	// List returns devices (not modules) ordered by id after the given one ("" from the start), at most limit.
	List(ctx context.Context, after string, limit int) ([]Identity, error)
	// Modules returns the modules of a device ordered by id; none when there is no such device.
	Modules(ctx context.Context, device string) ([]Identity, error)
	// Statistics counts devices.
	Statistics(ctx context.Context) (Statistics, error)
	// SetPresence records connects, disconnects and activity of many identities at
	// once. Unknown ids are skipped, and so are disconnects from a node that is not the last one the identity connected to.
	SetPresence(ctx context.Context, ps []Presence) error
	// ResetPresence marks everything disconnected that is connected to node, at its start after a crash. What lost, which
	// may be nil, returns for each is kept for the log in the same transaction.
	ResetPresence(ctx context.Context, node string, now time.Time, lost func(iot.ID) []iot.Message) error
	// KeepNode says that node lives at now, and marks everything disconnected that is connected to nodes
	// which said so last before dead, as ResetPresence does. It returns those nodes, and forgets them.
	KeepNode(ctx context.Context, node string, now, dead time.Time, lost func(iot.ID) []iot.Message) ([]string, error)
	// Contain reads, changes and writes the containment of a device in one transaction, as Update does for identities; fault.NotFound,
	// and ErrTooManyContained. A level above Free stays when
	// the device is deleted, until somebody changes it, and holds for whoever gets its id.
	Contain(ctx context.Context, device string, change func(Containment) (Containment, error)) (Containment, error)
	// Containment returns that of a device; fault.NotFound when there is no such device, and none above Free of that id.
	Containment(ctx context.Context, device string) (Containment, error)
	// Contained lists devices above Free, ordered by id after the given one ("" from the start), at most limit.
	Contained(ctx context.Context, after string, limit int) ([]Containment, error)
	BatchStore
}

// Presence is one change of a connection's state.
type Presence struct {
	ID        iot.ID
	Node      string    // where the session is
	Connected *bool     // nil: only activity
	Time      time.Time // of the connect or disconnect
	Activity  time.Time // zero: unchanged
	// Facts are kept for the log, in the same transaction, when Connected is a change.
	Facts []iot.Message
}
