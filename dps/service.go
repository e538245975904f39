package dps

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Config is what a provisioning service stands on.
type Config struct {
	IDScope string // required; devices name it in any letter case
	Store   Store  // required
	Hub     Hub    // required; this installation's own, which may be an [Issuer], too
	// Dial makes a hub of one that is linked by connection string. It does not connect yet. Nil: there are no such hubs.
	Dial func(LinkedHub) (Hub, error)
	// Webhooks asks those of custom allocation; nil: it is refused.
	Webhooks Asker
	// Secret makes challenges for TPMs; servers that stand beside each other have the same. Unset: one that is made now.
	Secret secret.Secret
	// Vouch says whether a certificate below a group's CA, whose chain verified, still counts, when somebody else answers for it
	// (vouched): it is not exchanged for another. Nil: nobody is asked. Failures are fault.Unauthorized, Disabled and Unavailable.
	Vouch func(ctx context.Context, chain []*x509.Certificate) (vouched bool, err error)
	// Connected hears of every caller that proved itself: its id at the hub, and from where it calls, as far as anybody knows. It waits
	// for nothing; nil: nobody does.
	Connected func(deviceID string, from netip.Addr)
	// Rejected hears of credentials that proved nothing. deviceID is that of the enrollment they are of; empty: they are of none, and the
	// registration id is whatever the caller made up. It waits for nothing; nil: nobody does.
	Rejected func(c Credentials, deviceID string, why Rejection)
	// Held says whether the operator holds a device of this id back (hub/registry): it does not leave for another hub. Nil: none is.
	Held   func(ctx context.Context, deviceID string) (bool, error)
	Limits Limits
	Now    func() time.Time
	Logger *slog.Logger // nil: slog.Default()
}

// How an assigned device authenticates at the hub, in the hub's spelling (dps §9.4).
const (
	AuthSAS                  = "sas"
	AuthSelfSigned           = "selfSigned"
	AuthCertificateAuthority = "certificateAuthority"
)

// Assignment is what provisioning wants of the hub.
type Assignment struct {
	DeviceID string
	AuthType string // one of the three above

	PrimaryKey, SecondaryKey secret.Secret // of AuthSAS
	// Thumbprints of AuthSelfSigned: upper-case hex SHA-256. The second may be empty.
	PrimaryThumbprint, SecondaryThumbprint string

	Edge          bool
	Tags, Desired json.RawMessage // initial twin of a new device; nil: none
	ResetTwin     bool            // an existing twin starts again from the initial one
}

// Service is one provisioning service. It is safe for concurrent use.
type Service struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	ops    *operations
	limits *limits
	groups cache[[]*group]
	hubs   cache[[]*linked]
	// writes orders changes of groups, CAs and linked hubs, so that no two of them come to be at odds.
	// Nothing else is taken while it is held but the locks of caches and of clients.
	writes sync.Mutex

	dialMu  sync.Mutex
	clients map[string]client // by folded host
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.IDScope == "" || len(cfg.IDScope) > 128 || !plain(cfg.IDScope):
		return nil, errors.New("dps: the id scope must be 1 to 128 letters, digits and - . _ :")
	case cfg.Store == nil || cfg.Hub == nil:
		return nil, errors.New("dps: incomplete configuration: Store and Hub are required")
	}
	if host := cfg.Hub.Host(); host == "" || len(host) > netxName {
		return nil, fmt.Errorf("dps: hub name %q must have 1 to %d characters: NetX Duo devices have no room for more", host, netxName)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Secret.IsZero() {
		cfg.Secret = secret.Random(32)
	}
	return &Service{
		cfg: cfg, log: cfg.Logger, now: cfg.Now, ops: newOperations(maxOperations), limits: newLimits(cfg.Limits), clients: map[string]client{},
	}, nil
}

// IDScope is the name devices select this service by.
func (s *Service) IDScope() string { return s.cfg.IDScope }

// Run forgets finished operations until ctx ends, and then hangs up on linked hubs and webhooks. The service works without
// it, and then forgets them when the next device registers.
func (s *Service) Run(ctx context.Context) error {
	defer s.hangUp()
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.ops.prune(s.now())
		}
	}
}

// hangUp closes what can be closed.
func (s *Service) hangUp() {
	s.dialMu.Lock()
	defer s.dialMu.Unlock()
	for _, c := range s.clients {
		c.close()
	}
	if c, ok := s.cfg.Webhooks.(io.Closer); ok {
		_ = c.Close() // nothing is sent any more
	}
}

// fold is the form in which names of this service compare. It folds ASCII only: what
// Unicode folds onto a letter (the Kelvin sign onto k) must not pass for it.
func fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func same(a, b string) bool { return fold(a) == fold(b) }

const (
	maxName  = 128
	netxName = 100 // NetX Duo's room for a host name and a device id (dps §7.2)
)

// plain reports whether s holds only what registration ids may hold (dps §1.3).
func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == ':':
		default:
			return false
		}
	}
	return true
}

// checkName checks a registration id or a group id (dps §1.3).
func checkName(what, s string) error {
	switch {
	case s == "" || len(s) > maxName:
		return fault.New(fault.Invalid, "%s must have 1 to %d characters", what, maxName)
	case !plain(s):
		return fault.New(fault.Invalid, "%s may hold letters, digits and - . _ : only", what)
	}
	switch s[len(s)-1] {
	case '.', '_', ':':
		return fault.New(fault.Invalid, "%s must end in a letter, a digit or -", what)
	}
	return nil
}
