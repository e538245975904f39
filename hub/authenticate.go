package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/wire/sas"
)

// proof is what authentication established.
type proof struct {
	identity registry.Identity
	method   string
	expires  time.Time      // zero: does not
	own      bool           // it was the identity's own credential, not that of a policy or of a device above
	vouched  bool           // by a certificate that somebody else answers for (Config.Vouch)
	above    []iot.ID       // of a connection on behalf of another: the devices on the way up, which must be enabled
	level    registry.Level // the greatest of the device's containment and of those above
}

// authenticate follows the order of hub-device §6.1. Every failure but a disabled
// device is Unauthorized, and the reason stays in the log.
func (h *Hub) authenticate(ctx context.Context, c iot.Credentials) (proof, error) {
	if !h.ours(c.Host) {
		return proof{}, fault.New(fault.Unauthorized, "the user name is for another hub")
	}
	d, err := h.cfg.Registry.Identity(ctx, c.ID)
	if fault.Is(err, fault.NotFound) {
		err = fault.Wrap(fault.Unauthorized, err, "the device is not registered")
		if h.cfg.Rejected != nil {
			h.cfg.Rejected(c, UnknownIdentity)
		}
		return proof{}, err
	}
	if err != nil {
		return proof{}, err
	}
	p := proof{identity: d}
	switch chain := authChain(c.AuthChain); {
	case len(chain) > 1:
		err = h.checkActor(ctx, c, d, chain, &p)
	case c.Token != "": // a token decides even beside a certificate (hub-device §2.1)
		err = h.checkToken(ctx, c, d, &p)
	case len(c.Certificates) > 0:
		err = h.checkCertificate(ctx, c, d, &p)
	default:
		err = fault.New(fault.Unauthorized, "neither a token nor a certificate was presented")
	}
	if err != nil {
		h.rejected(c, err)
		return proof{}, err
	}
	if d.Status == registry.Disabled {
		return proof{}, errDisabled
	}
	p.level = d.Containment
	above := p.above
	if c.ID.Module != "" && above == nil { // a module has no status of its own
		above = []iot.ID{{Device: c.ID.Device}}
	}
	for _, id := range above {
		switch link, err := h.cfg.Registry.Identity(ctx, id); {
		case err != nil:
			return proof{}, err
		case link.Status == registry.Disabled:
			return proof{}, errDisabled
		default:
			p.level = max(p.level, link.Containment)
		}
	}
	if p.level == registry.Cut {
		h.observed(p.level, c.ID, "was refused", "remote", c.Remote)
		return proof{}, errContained
	}
	return p, nil
}

// Rejection is why a device's own credential proved nothing, as far as somebody should hear of it (defender §2.2).
type Rejection int

// The rejections.
const (
	ExpiredToken        Rejection = iota + 1 // signed by the device's key, and too old
	InvalidToken                             // signed by another key, or not readable
	CertificateMismatch                      // of another thumbprint
	CertificateExpired
	UnknownIdentity // nobody of that name is registered
)

// rejection is a failure with its reason. What it wraps stays the failure.
type rejection struct {
	why Rejection
	error
}

func (r *rejection) Unwrap() error { return r.error }

func reject(why Rejection, err error) error { return &rejection{why, err} }

// rejected tells of a registered device that could not prove itself.
func (h *Hub) rejected(c iot.Credentials, err error) {
	if !fault.Is(err, fault.Unauthorized) {
		return
	}
	h.cfg.Activity.Add(c.ID.Device, activity.UnauthorizedOperations, 1)
	if r, ok := errors.AsType[*rejection](err); ok && h.cfg.Rejected != nil {
		h.cfg.Rejected(c, r.why)
	}
}

var errDisabled = fault.New(fault.Disabled, "the device is disabled")

func (h *Hub) ours(host string) bool {
	for _, n := range h.cfg.Hosts {
		if strings.EqualFold(n, host) {
			return true
		}
	}
	return false
}

func resource(id iot.ID) []string {
	if id.Module == "" {
		return []string{"devices", id.Device}
	}
	return []string{"devices", id.Device, "modules", id.Module}
}

func (h *Hub) checkToken(ctx context.Context, c iot.Credentials, d registry.Identity, p *proof) error {
	t, err := sas.Parse(c.Token)
	if err != nil {
		return reject(InvalidToken, fault.Wrap(fault.Unauthorized, err, "the token cannot be read"))
	}
	refused, err := h.refused(ctx)
	if err != nil {
		return err
	}
	p.expires = t.Expiry
	if t.KeyName != "" {
		if refused.Policies {
			return fault.New(fault.Unauthorized, "tokens of policies are refused (disableLocalAuth)")
		}
		if err := h.cfg.Guard.Check(t, access.DeviceConnect, resource(c.ID)...); err != nil {
			if fault.Is(err, fault.Unavailable) {
				return err
			}
			return fault.Wrap(fault.Unauthorized, err, "the policy token is refused")
		}
		p.method = methodText(iot.AuthMethod{Scope: "hub", Type: "sas", By: "iothub", Rule: ruleOf(c)})
		return nil
	}
	if err := h.checkOwnToken(t, d, refused, resource(d.ID)); err != nil {
		return err
	}
	p.own = true
	p.method = methodText(iot.AuthMethod{Scope: scopeOf(d.ID), Type: "sas", By: "iothub", Rule: ruleOf(c)})
	return nil
}

// ruleOf is the rule of the IP filter in the stamp of hub-service §7.5.
func ruleOf(c iot.Credentials) *string {
	if c.IPFilterRule == "" {
		return nil
	}
	return &c.IPFilterRule
}

func (h *Hub) refused(ctx context.Context) (access.Refused, error) {
	if h.cfg.Refused == nil {
		return access.Refused{}, nil
	}
	return h.cfg.Refused(ctx)
}

// checkOwnToken judges a token that d's own key should have signed, for nothing but path: the hub itself when that is empty.
func (h *Hub) checkOwnToken(t sas.Token, d registry.Identity, refused access.Refused, path []string) error {
	switch {
	case d.ID.Module == "" && refused.DeviceSAS:
		return fault.New(fault.Unauthorized, "tokens of devices are refused (disableDeviceSAS)")
	case d.ID.Module != "" && refused.ModuleSAS:
		return fault.New(fault.Unauthorized, "tokens of modules are refused (disableModuleSAS)")
	case d.Authentication.Type != registry.SAS:
		return fault.New(fault.Unauthorized, "the device does not authenticate by token")
	}
	scope, err := t.Scope()
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the token's resource cannot be read")
	}
	// The whole resource must be named: a device's token is not its module's (hub-device §6.2).
	if len(scope.Path) != len(path) || !scope.Covers(h.cfg.Hosts, path...) {
		return fault.New(fault.Unauthorized, "the token is for another resource")
	}
	if !d.VerifyToken(t) {
		return reject(InvalidToken, fault.New(fault.Unauthorized, "the token's signature does not verify"))
	}
	if h.now().After(t.Expiry.Add(access.Skew)) {
		return reject(ExpiredToken, fault.New(fault.Unauthorized, "the token expired at %s", t.Expiry.UTC().Format(time.RFC3339)))
	}
	return nil
}

// scopeOf says in the stamp of hub-device §3.3 whose credential it was.
func scopeOf(id iot.ID) string {
	if id.Module != "" {
		return "module"
	}
	return "device"
}

func (h *Hub) checkCertificate(ctx context.Context, c iot.Credentials, d registry.Identity, p *proof) error {
	leaf := c.Certificates[0]
	switch d.Authentication.Type {
	case registry.SelfSigned:
		one, two := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw)
		if !d.MatchesThumbprint(hex.EncodeToString(one[:]), hex.EncodeToString(two[:])) {
			return reject(CertificateMismatch, fault.New(fault.Unauthorized, "the certificate's thumbprint is not the registered one"))
		}
		if err := inForce(leaf, h.now()); err != nil {
			return err
		}
	case registry.CertificateAuthority:
		if leaf.Subject.CommonName != c.ID.String() {
			return fault.New(fault.Unauthorized, "the certificate's common name is not the device id")
		}
		anchors, err := h.cfg.Authorities(ctx)
		if err != nil {
			return err
		}
		if h.cfg.Issuer != nil {
			anchors = append(anchors, h.cfg.Issuer.Root())
		}
		chain, err := pki.VerifyChain(c.Certificates, anchors, h.now())
		if err != nil {
			err = fault.Wrap(fault.Unauthorized, err, "the certificate is refused")
			if h.now().After(leaf.NotAfter) {
				err = reject(CertificateExpired, err)
			}
			return err
		}
		if err := h.checkIssued(chain, d); err != nil {
			return err
		}
		if h.cfg.Vouch != nil {
			if p.vouched, err = h.cfg.Vouch(ctx, c.Certificates); err != nil {
				return err
			}
			if p.vouched {
				p.expires = leaf.NotAfter
			}
		}
	default:
		return fault.New(fault.Unauthorized, "the device does not authenticate by certificate")
	}
	p.own = true
	p.method = methodText(iot.AuthMethod{Scope: scopeOf(c.ID), Type: "x509", By: "iothub", Rule: ruleOf(c)})
	return nil
}

func inForce(leaf *x509.Certificate, now time.Time) error {
	if now.After(leaf.NotAfter) {
		return reject(CertificateExpired, fault.New(fault.Unauthorized, "the certificate expired"))
	}
	if now.Before(leaf.NotBefore) {
		return fault.New(fault.Unauthorized, "the certificate is not valid yet")
	}
	return nil
}
