// Package arm is what the heads share that answer in the shapes of Azure Resource Manager: its words for failures, its versions, and what goes with a
// refusal.
package arm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/fault"
)

// Answer is how a failure is told.
type Answer struct {
	Status int
	Code   string
}

// answers is the one table of kinds.
var answers = map[fault.Kind]Answer{
	fault.Internal:           {http.StatusInternalServerError, "InternalServerError"},
	fault.Invalid:            {http.StatusBadRequest, "InvalidParameter"},
	fault.Malformed:          {http.StatusBadRequest, "InvalidRequestContent"},
	fault.InvalidScope:       {http.StatusBadRequest, "InvalidParameter"},
	fault.Unauthorized:       {http.StatusUnauthorized, "AuthenticationFailed"},
	fault.Forbidden:          {http.StatusForbidden, "AuthorizationFailed"},
	fault.Disabled:           {http.StatusForbidden, "Disabled"},
	fault.QueueFull:          {http.StatusTooManyRequests, "TooManyRequests"},
	fault.QuotaExceeded:      {http.StatusForbidden, "QuotaExceeded"},
	fault.NotFound:           {http.StatusNotFound, "ResourceNotFound"},
	fault.NotOnline:          {http.StatusNotFound, "ResourceNotFound"},
	fault.ConnectionClosed:   {http.StatusNotFound, "ResourceNotFound"},
	fault.AlreadyExists:      {http.StatusConflict, "Conflict"},
	fault.PreconditionFailed: {http.StatusPreconditionFailed, "PreconditionFailed"},
	fault.LockLost:           {http.StatusPreconditionFailed, "PreconditionFailed"},
	fault.TooLarge:           {http.StatusRequestEntityTooLarge, "RequestEntityTooLarge"},
	fault.Throttled:          {http.StatusTooManyRequests, "TooManyRequests"},
	fault.BadDeviceResponse:  {http.StatusInternalServerError, "InternalServerError"},
	fault.Unavailable:        {http.StatusServiceUnavailable, "ServiceUnavailable"},
	fault.Timeout:            {http.StatusServiceUnavailable, "ServiceUnavailable"},
}

// ErrMethod says that a path is there for other methods.
var ErrMethod = errors.New("method not allowed")

// Denied is a request that proved nothing.
type Denied struct {
	Err       error
	Presented bool // it had a token
}

func (d Denied) Error() string { return d.Err.Error() }

func (d Denied) Unwrap() error { return d.Err }

// versionError is a request without the version that is served.
type versionError struct{ code, text string }

func (e versionError) Error() string { return e.text }

// CheckVersion refuses a request whose api-version is not the one that is served, in any case.
func CheckVersion(given, served string) error {
	switch {
	case strings.EqualFold(given, served):
		return nil
	case given == "":
		return versionError{"MissingApiVersionParameter", fmt.Sprintf("the api-version query parameter is required; it is %s here", served)}
	}
	return versionError{"InvalidApiVersionParameter", fmt.Sprintf("the api-version of this resource is %s", served)}
}

// Of is how a kind of failure is told.
func Of(k fault.Kind) Answer { return answers[k] }

// IsVersion reports whether err is that of CheckVersion.
func IsVersion(err error) bool {
	_, ok := errors.AsType[versionError](err)
	return ok
}

// AnswerOf is how err is told.
func AnswerOf(err error) Answer {
	if v, ok := errors.AsType[versionError](err); ok {
		return Answer{http.StatusBadRequest, v.code}
	}
	if errors.Is(err, ErrMethod) {
		return Answer{http.StatusMethodNotAllowed, "MethodNotAllowed"}
	}
	return Of(fault.KindOf(err))
}

// Public is what the peer may read of an error.
func Public(err error) string {
	if v, ok := errors.AsType[versionError](err); ok {
		return v.text
	}
	if errors.Is(err, ErrMethod) {
		return "this path does not take the method"
	}
	return fault.Public(err)
}

// Headers sets what goes with a refusal: a challenge of realm, and when to come again, which it reports.
func Headers(h http.Header, realm string, err error) (retry bool) {
	if d, ok := errors.AsType[Denied](err); ok {
		challenge := fmt.Sprintf("Bearer realm=%q", realm) // RFC 6750 §3: a request without a token learns of no error
		if d.Presented {
			challenge += `, error="invalid_token"`
		}
		h.Set("WWW-Authenticate", challenge)
	}
	f, ok := errors.AsType[*fault.Error](err)
	if retry = ok && f.RetryAfter > 0; retry {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	return retry
}

// Error is what a failed request, or an operation that failed, says.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Body is the body of a refusal; its code goes into a header, too.
func Body(h http.Header, err error) []byte {
	e := Error{AnswerOf(err).Code, Public(err)}
	h.Set("X-Ms-Error-Code", e.Code)
	text, err := json.Marshal(map[string]Error{"error": e})
	if err != nil {
		panic(err) // texts always marshal
	}
	return text
}
