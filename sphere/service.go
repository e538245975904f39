// Package sphere is the Security Service: tenants and who may do what in them, products, device groups, devices and
// how they are claimed, the software that is trusted, the CA of each tenant, and what devices tell of their failures (sphere §§4, 7, 10, 11, 13).
//
// It has two sides. [Service] is for people and programs: each method takes the [Caller] that sign-in proved and asks the table
// of rights (rights.go) before anything else. [DeviceSide] is for what devices have proven of themselves: it takes a device's id, and
// reads and writes that device and its tenant's rules, nothing more. No HTTP is here, and no attestation: head/sphere and sphere/attest stand on it.
//
// A tenant's existence is no business of others: to a caller without a role in it, every method says of a tenant, fault.NotFound,
// what it says of one that is not there. A member whose role does not allow an operation is told so, fault.Forbidden.
//
// Times are UTC. Ids are GUIDs in lower case; every method takes them in any case. Lists have pages ([Page], [List]).
package sphere

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

// Config is what a Security Service stands on.
type Config struct {
	Store Store // required
	// Installation is the name that stands in the subjects of the roots: the hub's host name. They are made at the first start and do not change
	// with it.
	Installation string
	// TenantsPerUser is in how many tenants a caller may be Administrator and still make another; 0: 10; negative: only
	// administrators of the installation make tenants.
	TenantsPerUser int
	// Disabled hears of devices that were disabled, after it is written; nil: nobody does.
	Disabled func(device string)
	Now      func() time.Time // nil: time.Now
	Logger   *slog.Logger     // nil: slog.Default()
}

// Service is one Security Service. It is safe for concurrent use.
type Service struct {
	cfg    Config
	store  Store
	log    *slog.Logger
	now    func() time.Time
	claims *claim.Minter
	// root signs tenants' CAs; updates signs update certificates.
	root, updates *tenantca.Authority
	capabilities  *tenantca.Authority // signs capability files

	openedMu sync.Mutex
	opened   map[string]*tenantca.Authority // by tenant and serial
}

// What is kept as settings, sealed.
const (
	settingRoot    = "sphere/root"
	settingUpdates = "sphere/updates"
	settingClaims  = "sphere/claims"

	settingCapabilities = "sphere/capabilities"
)

// New returns a service. At the first start of an installation it makes the roots, the signer of capability files and the key of claim challenges;
// servers that stand beside each other get the same.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Store == nil {
		return nil, errors.New("sphere: incomplete configuration: Store is required")
	}
	if cfg.TenantsPerUser == 0 {
		cfg.TenantsPerUser = 10
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Service{cfg: cfg, store: cfg.Store, log: cfg.Logger, now: cfg.Now, opened: map[string]*tenantca.Authority{}}
	var err error
	if s.root, err = s.kept(ctx, settingRoot, "root", tenantca.NewRoot); err != nil {
		return nil, err
	}
	if s.updates, err = s.kept(ctx, settingUpdates, "updates", tenantca.NewIssuer); err != nil {
		return nil, err
	}
	if s.capabilities, err = s.kept(ctx, settingCapabilities, "capabilities", tenantca.NewSigner); err != nil {
		return nil, err
	}
	key, err := cfg.Store.InitSetting(ctx, settingClaims, secret.Random(32).Reveal())
	if err != nil {
		return nil, fmt.Errorf("sphere: the key of claim challenges: %w", err)
	}
	s.claims = claim.NewMinter(secret.New(key))
	return s, nil
}

// kept opens an authority of the installation, or makes it.
func (s *Service) kept(
	ctx context.Context, setting, role string, make func(role, installation string, now time.Time) (*tenantca.Authority, error),
) (*tenantca.Authority, error) {
	fresh, err := make(role, s.cfg.Installation, s.now())
	if err != nil {
		return nil, err
	}
	data, err := fresh.Marshal()
	if err != nil {
		return nil, err
	}
	if data, err = s.store.InitSetting(ctx, setting, data); err != nil {
		return nil, fmt.Errorf("sphere: the %s: %w", role, err)
	}
	return tenantca.Unmarshal(data)
}

// Run looks after the CAs of all tenants until ctx ends: successors are made when they are due. Any number of servers may run it at once.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(rotationPeriod)
	defer tick.Stop()
	for {
		if err := s.rotateAll(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("CAs of tenants were not all looked after; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Fold is the form in which names compare: ASCII lower case. What Unicode folds onto a letter does not pass for it.
func Fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// newGUID makes a random one (RFC 9562 version 4).
func newGUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// guid returns the stored form of a GUID; ok is false for what is none.
func guid(s string) (id string, ok bool) {
	if len(s) != 36 {
		return "", false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return "", false
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return "", false
		}
	}
	return Fold(s), true
}

func newETag() iot.ETag { return iot.ETag(nonce.New()) }

// Lengths of texts.
const (
	maxName        = 50
	maxDescription = 100
	maxUser        = 254 // a mail address (RFC 5321)
)

// checkTenantName is ARM's rule for catalogs (sphere §11.2).
func checkTenantName(s string) error {
	ok := s != "" && len(s) <= maxName
	for i := range len(s) {
		c := s[i]
		ok = ok && (alnum(c) || c == '_' || c == '-')
	}
	if !ok {
		return fault.New(fault.Invalid, "a tenant's name has 1 to %d letters, digits, - and _", maxName)
	}
	return nil
}

// checkName is the rule for products and device groups (sphere §4.3).
func checkName(what, s string) error {
	ok := s != "" && len(s) <= maxName && alnum(s[0]) && alnum(s[len(s)-1])
	for i := range len(s) {
		ok = ok && (alnum(s[i]) || s[i] == ' ')
	}
	if !ok {
		return fault.New(fault.Invalid, "the name of a %s has 1 to %d letters and digits, and spaces between them", what, maxName)
	}
	return nil
}

func alnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// checkText refuses texts of people that are too long or would garble a terminal.
func checkText(what, s string, limit int) error {
	if len(s) > limit || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fault.New(fault.Invalid, "%s has at most %d bytes, without control characters", what, limit)
	}
	return nil
}

// deviceID is deviceid.Parse for ids in paths: what cannot be one is not there.
func deviceID(s string) (string, error) {
	id, err := deviceid.Parse(s)
	if err != nil {
		return "", fault.New(fault.NotFound, "there is no such device: a device id has %d hex digits", deviceid.Len)
	}
	return id, nil
}

const tokenVersion = "1:"

// place reads a page: where it begins in the order of keys, and how many it has.
func (p Page) place() (after string, limit int, err error) {
	switch limit = p.Limit; {
	case limit == 0:
		limit = DefaultPage
	case limit < 0 || limit > MaxPage:
		return "", 0, fault.New(fault.Invalid, "a page has 1 to %d items", MaxPage)
	}
	if p.Token == "" {
		return "", limit, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(p.Token)
	after, ok := strings.CutPrefix(string(b), tokenVersion)
	if err != nil || !ok || after == "" || len(after) > 512 || checkText("", after, 512) != nil || strings.ToValidUTF8(after, "") != after {
		return "", 0, fault.New(fault.Invalid, "the continuation token is not one of this service; begin again without one")
	}
	return after, limit, nil
}

// page asks for one item more than the page has, to know whether there is another page.
func page[T any](p Page, key func(T) string, list func(after string, limit int) ([]T, error)) (List[T], error) {
	after, limit, err := p.place()
	if err != nil {
		return List[T]{}, err
	}
	items, err := list(after, limit+1)
	if err != nil {
		return List[T]{}, err
	}
	l := List[T]{Items: items}
	if len(items) > limit {
		l.Items = items[:limit]
		l.NextToken = base64.RawURLEncoding.EncodeToString([]byte(tokenVersion + key(items[limit-1])))
	}
	return l, nil
}
