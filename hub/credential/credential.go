// Package credential renews the certificates of devices (hub-device §3.10): a device asks for one with a certificate request, is told
// that the request was accepted, and then what became of it.
//
// An identity has one operation at a time. The store keeps it until the device has the answer, for [Life] at most, so that neither a
// lost connection nor a restart loses it, and any server of a cluster can go on with it. It is carried out when the device is there to
// hear of it, by the server that it is connected to; nothing is signed for a device that is gone.
package credential

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
)

const (
	// Life is how long an operation is kept for a device that does not come for its answer.
	Life = 24 * time.Hour
	// DefaultPause is the time between a request and its answer in which the device may replace it. Azure takes seconds, too, and clients
	// that ask twice are to find the first request under way.
	DefaultPause = 2 * time.Second
)

// Operation is a request of an identity, and its outcome once it was carried out.
type Operation struct {
	iot.CertificateOperation
	ID      iot.ID
	Request []byte // DER, as the device sent it
	Began   time.Time
	Outcome
}

// Outcome is what became of an operation. The zero value is: nothing yet.
type Outcome struct {
	Certificates [][]byte // DER, leaf first
	Refusal      string   // why none was issued
}

// Done reports whether the operation was carried out.
func (o Outcome) Done() bool { return o.Certificates != nil || o.Refusal != "" }

// ErrSuperseded says that an operation is not the one of its identity any more, or was carried out by another server.
var ErrSuperseded = fault.New(fault.NotFound, "the operation is not under way any more")

// Store keeps operations, one for each identity, as long as the identity is there. Every write is on disk when the call returns. Those
// that are expired at now are as if they were not there.
type Store interface {
	// BeginCredential keeps the operation that change returns in the place of the standing one, which is nil when there is none.
	// An error of change is returned as it is, and nothing is written; fault.NotFound for an unknown identity.
	BeginCredential(ctx context.Context, id iot.ID, now time.Time, change func(standing *Operation) (Operation, error)) (Operation, error)
	// Credential returns the operation of id; fault.NotFound.
	Credential(ctx context.Context, id iot.ID, now time.Time) (Operation, error)
	// FinishCredential writes the outcome of an operation that has none, and in the same transaction what change makes of the
	// identity, unless change is nil. ErrSuperseded when the operation is another one by now, or has its outcome. An error of change
	// is returned as it is, and nothing is written.
	FinishCredential(ctx context.Context, id iot.ID, correlationID string, o Outcome, now time.Time,
		change func(registry.Identity) (registry.Identity, error)) error
	// EndCredential forgets an operation. One that is not there is fine.
	EndCredential(ctx context.Context, id iot.ID, correlationID string) error
	// ExpireCredentials forgets the operations whose time is past, and returns how many.
	ExpireCredentials(ctx context.Context, now time.Time) (int, error)
}

// Issuer signs certificates.
type Issuer interface {
	// Issue returns the chain in DER of a certificate for the key of r, from the leaf to the root.
	Issue(r *x509.CertificateRequest, id, generation string) ([][]byte, error)
}

// Caller is an identity that is connected.
type Caller struct {
	ID     iot.ID
	Remote string
	// Shown is the certificate that the connection was made with; nil: a token.
	Shown *x509.Certificate
	// Check judges the proof of the connection once more, by what the registry says now.
	Check func(ctx context.Context) (registry.Identity, error)
}

// Config of a service. Store and Issuer are required.
type Config struct {
	Store  Store
	Issuer Issuer
	Pause  time.Duration    // between a request and its answer; 0: DefaultPause
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Service issues certificates. It is safe for concurrent use.
type Service struct {
	cfg    Config
	limits limits
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Issuer == nil {
		return nil, errors.New("hub/credential: Store and Issuer are required")
	}
	if cfg.Pause <= 0 {
		cfg.Pause = DefaultPause
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Service{cfg: cfg}, nil
}

// Begin accepts a request. answered is the correlation id of the operation whose answer the connection has carried last: the device
// goes on, so it is over. Failures are *iot.CertificateConflict (fault.AlreadyExists and PreconditionFailed), fault.Malformed,
// Invalid and Throttled, and those of Caller.Check.
func (s *Service) Begin(ctx context.Context, c Caller, requestID string, body []byte, answered string) (iot.CertificateOperation, error) {
	if utf8.RuneCountInString(requestID) > maxRequestID {
		return iot.CertificateOperation{}, fault.New(fault.Invalid, "the request id has more than %d characters", maxRequestID)
	}
	r, err := parse(c.ID.String(), body)
	if err != nil {
		return iot.CertificateOperation{}, err
	}
	if _, err := c.Check(ctx); err != nil {
		return iot.CertificateOperation{}, err
	}
	now := s.cfg.Now()
	if err := s.limits.take(c.ID, now); err != nil {
		return iot.CertificateOperation{}, err
	}
	fresh := Operation{
		CertificateOperation: iot.CertificateOperation{RequestID: requestID, CorrelationID: newCorrelationID(), Expires: now.Add(Life)},
		ID:                   c.ID, Request: r.csr, Began: now,
	}
	op, err := s.cfg.Store.BeginCredential(ctx, c.ID, now, func(standing *Operation) (Operation, error) {
		if standing != nil && standing.CorrelationID == answered {
			standing = nil
		}
		return r.against(standing, fresh)
	})
	if err != nil || op.CorrelationID != fresh.CorrelationID {
		s.limits.giveBack(c.ID)
	}
	return op.CertificateOperation, err
}

// against judges a request by the operation that stands, if any, and returns the one to keep.
func (r request) against(standing *Operation, fresh Operation) (Operation, error) {
	switch {
	case standing != nil && r.replace == "" && standing.RequestID == fresh.RequestID && bytes.Equal(standing.Request, fresh.Request):
		return *standing, nil // the same once more: a device that lost its connection, or the answer
	case standing != nil && r.replace == "":
		return fresh, &iot.CertificateConflict{Operation: standing.CertificateOperation, Err: fault.New(fault.AlreadyExists,
			"a certificate request is under way already; wait for its answer, or name it in replace")}
	case r.replace == "" || r.replace == anyRequest || standing != nil && r.replace == standing.RequestID:
		return fresh, nil
	}
	return fresh, &iot.CertificateConflict{Operation: iot.CertificateOperation{RequestID: r.replace}, Err: fault.New(fault.PreconditionFailed,
		"there is no certificate request under way that replace names")}
}

// Answer returns the answer that waits for a device, and carries out the operation when it is time to; see iot.Session.
func (s *Service) Answer(ctx context.Context, c Caller) (a iot.CertificateAnswer, wait time.Duration, ok bool, err error) {
	for {
		now := s.cfg.Now()
		op, err := s.cfg.Store.Credential(ctx, c.ID, now)
		if fault.Is(err, fault.NotFound) {
			return a, 0, false, nil
		}
		if err != nil {
			return a, 0, false, err
		}
		if op.Done() {
			return iot.CertificateAnswer{CertificateOperation: op.CertificateOperation, Certificates: op.Certificates, Refusal: op.Refusal}, 0, true, nil
		}
		if wait := op.Began.Add(s.cfg.Pause).Sub(now); wait > 0 {
			return a, min(wait, s.cfg.Pause), false, nil // min: clocks of servers differ
		}
		// The next look sees what is kept, also when another server was faster or the device went on with another request.
		if err := s.carryOut(ctx, c, op); err != nil && !fault.Is(err, fault.NotFound) {
			return a, 0, false, err
		}
	}
}

// errChanged says that the identity is not any more what the connection proved.
var errChanged = fault.New(fault.Unauthorized, "the device does not authenticate as it did when it connected")

// carryOut signs a request, or finds out why it cannot be signed, and keeps the outcome.
func (s *Service) carryOut(ctx context.Context, c Caller, op Operation) error {
	chain, change, err := s.issue(ctx, c, op)
	o := Outcome{Certificates: chain}
	if err == nil {
		err = s.cfg.Store.FinishCredential(ctx, c.ID, op.CorrelationID, o, s.cfg.Now(), change)
	}
	cause := err
	switch fault.KindOf(err) {
	case fault.Unauthorized, fault.Forbidden, fault.Disabled, fault.Invalid: // of these the device is told
		o = Outcome{Refusal: fault.Public(err)}
		err = s.cfg.Store.FinishCredential(ctx, c.ID, op.CorrelationID, o, s.cfg.Now(), nil)
	}
	if err == nil {
		s.audit(ctx, c, op, o, cause)
	}
	return err
}

// issue signs a request. change is what the identity becomes by it; nil: it stays as it is.
func (s *Service) issue(ctx context.Context, c Caller, op Operation) (chain [][]byte, change func(registry.Identity) (registry.Identity, error), err error) {
	d, err := c.Check(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := pki.ParseRequest(op.Request)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Invalid, err, "the certificate request did not pass verification: %v", err)
	}
	if chain, err = s.cfg.Issuer.Issue(r, c.ID.String(), d.Generation); err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %s: %w", c.ID, err)
	}
	if d.Authentication.Type == registry.SelfSigned {
		// Such a device is known by nothing but its thumbprints. In one transaction with the outcome: the thumbprint of a request that was
		// replaced meanwhile must not come after that of the one which replaced it.
		fresh, shown := sha256.Sum256(chain[0]), shownPrints(c.Shown)
		change = func(now registry.Identity) (registry.Identity, error) {
			next, ok := now.WithThumbprint(hex.EncodeToString(fresh[:]), shown...)
			if !ok || now.Generation != d.Generation {
				return now, errChanged
			}
			return next, nil
		}
	}
	return chain, change, nil
}

func shownPrints(c *x509.Certificate) []string {
	if c == nil {
		return nil
	}
	one, two := sha1.Sum(c.Raw), sha256.Sum256(c.Raw)
	return []string{hex.EncodeToString(one[:]), hex.EncodeToString(two[:])}
}

// audit makes the record of an operation that was carried out, in the words of head/rest.
func (s *Service) audit(ctx context.Context, c Caller, op Operation, o Outcome, cause error) {
	args := []any{"audit", true, "who", c.ID.String(), "what", "issueCertificate", "target", c.ID.String()}
	if o.Refusal == "" {
		args = append(args, "outcome", "done", "status", 200)
		if leaf, err := x509.ParseCertificate(o.Certificates[0]); err == nil { // the issuer made it a moment ago
			print := sha256.Sum256(leaf.Raw)
			args = append(args, "serial", leaf.SerialNumber.Text(16), "thumbprint", strings.ToUpper(hex.EncodeToString(print[:])), "notAfter", leaf.NotAfter)
		}
	} else {
		args = append(args, "outcome", "refused", "status", 400, "err", cause)
	}
	s.cfg.Logger.InfoContext(ctx, "change", append(args, "request", op.RequestID, "correlation", op.CorrelationID, "from", c.Remote)...)
}

// Taken forgets an operation whose answer the device has.
func (s *Service) Taken(ctx context.Context, id iot.ID, correlationID string) error {
	return s.cfg.Store.EndCredential(ctx, id, correlationID)
}

// Expire forgets the operations whose time is past.
func (s *Service) Expire(ctx context.Context) error {
	_, err := s.cfg.Store.ExpireCredentials(ctx, s.cfg.Now())
	return err
}

// newCorrelationID is a random UUID.
func newCorrelationID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
