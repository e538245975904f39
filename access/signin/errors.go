package signin

import "github.com/vauban-iot/vauban/fault"

// What is refused, and why. Compare with errors.Is.
var (
	// ErrCredentials is a wrong password and an unknown account alike.
	ErrCredentials = fault.New(fault.Unauthorized, "the mail address or the password is wrong")
	// ErrDisabled comes only after the proof of who one is.
	ErrDisabled = fault.New(fault.Forbidden, "the account is disabled; ask the administrator of this installation")

	ErrToken   = fault.New(fault.Unauthorized, "that is no access token of this installation")
	ErrExpired = fault.New(fault.Unauthorized, "the access token has expired")
	ErrRevoked = fault.New(fault.Unauthorized, "the session has ended; sign in again")

	ErrClient    = fault.New(fault.Unauthorized, "there is no such client")
	ErrRedirect  = fault.New(fault.Invalid, "the client takes no codes at this redirect URI")
	ErrChallenge = fault.New(fault.Invalid, "a PKCE code challenge of method S256 is required")

	// ErrGrant is a code or a refresh token that is none, was used, is another client's, or whose PKCE verifier is wrong.
	ErrGrant = fault.New(fault.Unauthorized, "the code or token is not valid")
	// ErrPending, ErrSlowDown, ErrDenied and ErrCodeExpired are the answers to polling of RFC 8628 §3.5.
	ErrPending     = fault.New(fault.NotOnline, "nobody has decided yet")
	ErrSlowDown    = fault.New(fault.Throttled, "poll less often")
	ErrDenied      = fault.New(fault.Forbidden, "the request was denied")
	ErrCodeExpired = fault.New(fault.Unauthorized, "the code has expired")
	// ErrUserCode is a code that a person typed and that asks for nothing now.
	ErrUserCode = fault.New(fault.NotFound, "there is no request with this code; it may have expired")

	// ErrRegistration is somebody who may not make an account.
	ErrRegistration = fault.New(fault.Forbidden, "accounts are made by invitation here; ask the administrator of this installation for one")
	// ErrMailTaken is a mail address that has an account, of whatever provider.
	ErrMailTaken = fault.New(fault.AlreadyExists, "this mail address has an account already")
	// ErrNotVerified is a person whose provider does not vouch for the mail address.
	ErrNotVerified = fault.New(fault.Forbidden, "the provider does not say that your mail address is verified")
	ErrNoProvider  = fault.New(fault.NotFound, "there is no such provider")
)
