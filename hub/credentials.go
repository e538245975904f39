package hub

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

var errNoIssuer = fault.New(fault.Invalid, "this hub issues no certificates")

// RequestCertificate implements iot.Session.
func (s *session) RequestCertificate(ctx context.Context, requestID string, body []byte, answered string) (iot.CertificateOperation, error) {
	if s.hub.credentials == nil {
		return iot.CertificateOperation{}, errNoIssuer
	}
	s.activity.Store(s.hub.now().UnixMicro())
	if err := s.barred("asks for a certificate"); err != nil {
		return iot.CertificateOperation{}, err
	}
	return s.hub.credentials.Begin(ctx, s.caller(), requestID, body, answered)
}

// CertificateAnswer implements iot.Session.
func (s *session) CertificateAnswer(ctx context.Context) (iot.CertificateAnswer, time.Duration, bool, error) {
	if s.hub.credentials == nil || !s.route.Current() { // the answer is for the session that took over
		return iot.CertificateAnswer{}, 0, false, nil
	}
	return s.hub.credentials.Answer(ctx, s.caller())
}

// CertificateTaken implements iot.Session.
func (s *session) CertificateTaken(ctx context.Context, correlationID string) error {
	if s.hub.credentials == nil {
		return nil
	}
	return s.hub.credentials.Taken(ctx, s.id, correlationID)
}

func (s *session) caller() credential.Caller {
	c := credential.Caller{ID: s.id, Remote: s.remote, Check: s.check}
	if len(s.shown) > 0 {
		c.Shown = s.shown[0]
	}
	return c
}

// check judges once more who the session belongs to. A certificate outlives the session, the token and the CA that it is asked for
// with: it is issued to nobody who could not connect with them now, and to nobody who speaks for others.
func (s *session) check(ctx context.Context) (registry.Identity, error) {
	h := s.hub
	if !s.own {
		return registry.Identity{}, fault.New(fault.Forbidden, "a certificate is issued to who shows a credential of its own, not that of a policy or of a device above")
	}
	if len(s.shown) > 0 {
		p, err := h.authenticate(ctx, iot.Credentials{ID: s.id, Host: h.Host(), Certificates: s.shown})
		switch {
		case err != nil:
		case p.identity.Generation != s.generation:
			err = errOther
		case p.vouched:
			err = errVouched
		}
		return p.identity, err
	}
	// Of a token the key is asked for, which sessions do not remember; it was judged when the session began.
	d, err := h.cfg.Registry.Identity(ctx, s.id)
	switch {
	case fault.Is(err, fault.NotFound), err == nil && (d.Generation != s.generation || d.Authentication.Type != registry.SAS):
		return d, errOther
	case err != nil:
		return d, err
	}
	return d, h.admit(ctx, s.id, registry.Level(s.level.Load()))
}

// errVouched keeps a certificate of a day from becoming one of months, of which who issued the first would know nothing.
var errVouched = fault.New(fault.Forbidden, "the certificate is renewed where it was issued; what would be issued here would outlive it")

var errOther = fault.New(fault.Unauthorized, "the device is not the one any more that connected, or authenticates in another way")
