package attest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/attestation"
)

// Code names a refusal on the wire.
type Code string

// The codes, as docs/attestation.md lists them.
const (
	Malformed           Code = "Malformed"
	UnsupportedVersion  Code = "UnsupportedVersion"
	TooLarge            Code = "TooLarge"
	WeakKey             Code = "WeakKey"
	KeyReused           Code = "KeyReused"
	ClockSkewed         Code = "ClockSkewed"
	NonceInvalid        Code = "NonceInvalid"
	NonceExpired        Code = "NonceExpired"
	BadSignature        Code = "BadSignature"
	BadQuote            Code = "BadQuote"
	BadCredential       Code = "BadCredential"
	MeasurementMismatch Code = "MeasurementMismatch"
	WrongKey            Code = "WrongKey"
	WrongEvidence       Code = "WrongEvidence"
	UnknownDevice       Code = "UnknownDevice"
	NotClaimed          Code = "NotClaimed"
	Disabled            Code = "Disabled"
	UnknownSoftware     Code = "UnknownSoftware"
	NonceUsed           Code = "NonceUsed"
	CounterNotGrown     Code = "CounterNotGrown"
	Busy                Code = "Busy"
	Unavailable         Code = "Unavailable"
	InternalError       Code = "InternalError"

	// SoftwareOutdated is no refusal: it says why there is no client certificate beside the update certificate.
	SoftwareOutdated Code = "SoftwareOutdated"
)

// kinds gives each code its kind of fault.
var kinds = map[Code]fault.Kind{
	Malformed: fault.Malformed, UnsupportedVersion: fault.Invalid, TooLarge: fault.TooLarge, WeakKey: fault.Invalid, KeyReused: fault.Invalid,
	ClockSkewed: fault.Invalid, NonceInvalid: fault.Unauthorized, NonceExpired: fault.Unauthorized, BadSignature: fault.Unauthorized,
	BadQuote: fault.Unauthorized, BadCredential: fault.Unauthorized, MeasurementMismatch: fault.Unauthorized, WrongKey: fault.Forbidden,
	WrongEvidence: fault.Forbidden, UnknownDevice: fault.Forbidden, NotClaimed: fault.Forbidden, Disabled: fault.Disabled,
	UnknownSoftware: fault.Forbidden, NonceUsed: fault.PreconditionFailed, CounterNotGrown: fault.PreconditionFailed, Busy: fault.Throttled,
	Unavailable: fault.Unavailable, InternalError: fault.Internal,
}

// Codes lists every code of a refusal, for tests that walk them.
func Codes() []Code {
	cs := make([]Code, 0, len(kinds))
	for c := range kinds {
		cs = append(cs, c)
	}
	return cs
}

// Refusal is why a device got nothing. Public is for the device's log; Err stays here.
type Refusal struct {
	Code       Code
	Public     string
	RetryAfter time.Duration // zero: nothing to wait for
	Err        error
}

func refuse(c Code, format string, args ...any) *Refusal {
	return &Refusal{Code: c, Public: fmt.Sprintf(format, args...)}
}

func (r *Refusal) because(err error) *Refusal         { r.Err = err; return r }
func (r *Refusal) retry(after time.Duration) *Refusal { r.RetryAfter = after; return r }

// Error implements error.
func (r *Refusal) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("%s: %s: %v", r.Code, r.Public, r.Err)
	}
	return fmt.Sprintf("%s: %s", r.Code, r.Public)
}

// Unwrap gives the refusal its kind of fault, and the cause.
func (r *Refusal) Unwrap() error {
	return &fault.Error{Kind: kinds[r.Code], Public: r.Public, RetryAfter: r.RetryAfter, Err: r.Err}
}

// refusal turns any error into a *Refusal and logs it.
func (s *Service) refusal(ctx context.Context, device, remote string, err error) error {
	if err == nil {
		return nil
	}
	r := s.classify(err)
	switch r.Code {
	case CounterNotGrown: // was logged as what it is
	case InternalError, Unavailable:
		s.log.ErrorContext(ctx, "attestation failed", "device", device, "code", string(r.Code), "err", err, "from", remote)
	default:
		s.log.InfoContext(ctx, "attestation refused", "device", device, "code", string(r.Code), "err", err, "from", remote)
	}
	return r
}

func (s *Service) classify(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	words := func(c Code, public string) *Refusal { return refuse(c, "%s", public).because(err) }
	switch {
	case errors.Is(err, attestation.ErrVersion):
		return words(UnsupportedVersion, fmt.Sprintf("this service speaks version %d", attestation.Version))
	case errors.Is(err, attestation.ErrMalformed):
		return refuse(Malformed, "%v", err)
	case errors.Is(err, attestation.ErrWeakKey):
		return words(WeakKey, "keys are ECDSA on P-256")
	case errors.Is(err, attestation.ErrSignature):
		return words(BadSignature, "a signature does not verify")
	case errors.Is(err, attestation.ErrQuote):
		return words(BadQuote, "the TPM's evidence is not acceptable")
	}
	switch fault.KindOf(err) {
	case fault.TooLarge:
		return words(TooLarge, fault.Public(err))
	case fault.Throttled, fault.QuotaExceeded, fault.QueueFull:
		return words(Busy, "too many requests").retry(s.spread(time.Minute))
	case fault.PreconditionFailed: // of an inventory that keeps a counter of its own
		return words(CounterNotGrown, fault.Public(err))
	case fault.Disabled: // between our look and the issuer's
		return words(Disabled, "this device is disabled").retry(s.spread(time.Hour))
	case fault.Unavailable, fault.Timeout:
		return words(Unavailable, "the service cannot answer now").retry(s.spread(time.Minute))
	}
	return words(InternalError, "the server could not complete the request").retry(s.spread(time.Minute))
}
