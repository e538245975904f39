package sphere

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// answer is how a failure is told.
type answer struct {
	status int
	code   string // of the public API
	arm    string // of ARM
	title  string
}

// answers is the one table of kinds (sphere §11: clients of the public API send again what was answered 429 and 500, so what passes is one of these).
var answers = map[fault.Kind]answer{
	fault.Internal:           {http.StatusInternalServerError, "InternalError", "InternalServerError", "The request could not be completed"},
	fault.Invalid:            {http.StatusBadRequest, "InvalidArgument", "InvalidParameter", "A value breaks a rule"},
	fault.Malformed:          {http.StatusBadRequest, "MalformedRequest", "InvalidRequestContent", "The request cannot be read"},
	fault.InvalidScope:       {http.StatusBadRequest, "InvalidArgument", "InvalidParameter", "A value breaks a rule"},
	fault.Unauthorized:       {http.StatusUnauthorized, "Unauthorized", "AuthenticationFailed", "The caller is not signed in"},
	fault.Forbidden:          {http.StatusForbidden, "Forbidden", "AuthorizationFailed", "The caller may not do this"},
	fault.Disabled:           {http.StatusForbidden, "Disabled", "Disabled", "The device is disabled"},
	fault.QueueFull:          {http.StatusTooManyRequests, "TooManyRequests", "TooManyRequests", "Too many requests"},
	fault.QuotaExceeded:      {http.StatusForbidden, "QuotaExceeded", "QuotaExceeded", "There are as many as there may be"},
	fault.NotFound:           {http.StatusNotFound, "NotFound", "ResourceNotFound", "It does not exist"},
	fault.NotOnline:          {http.StatusNotFound, "NotFound", "ResourceNotFound", "It does not exist"},
	fault.ConnectionClosed:   {http.StatusNotFound, "NotFound", "ResourceNotFound", "It does not exist"},
	fault.AlreadyExists:      {http.StatusConflict, "Conflict", "Conflict", "It conflicts with what stands"},
	fault.PreconditionFailed: {http.StatusPreconditionFailed, "PreconditionFailed", "PreconditionFailed", "It was changed since"},
	fault.LockLost:           {http.StatusPreconditionFailed, "PreconditionFailed", "PreconditionFailed", "It was changed since"},
	fault.TooLarge:           {http.StatusRequestEntityTooLarge, "TooLarge", "RequestEntityTooLarge", "The request is too large"},
	fault.Throttled:          {http.StatusTooManyRequests, "TooManyRequests", "TooManyRequests", "Too many requests"},
	fault.BadDeviceResponse:  {http.StatusInternalServerError, "InternalError", "InternalServerError", "The request could not be completed"},
	fault.Unavailable:        {http.StatusInternalServerError, "Unavailable", "ServiceUnavailable", "The service is busy or stopping"},
	fault.Timeout:            {http.StatusInternalServerError, "Unavailable", "ServiceUnavailable", "The service is busy or stopping"},
}

// Refusals that only HTTP knows.
var (
	methodNotAllowed = answer{http.StatusMethodNotAllowed, "MethodNotAllowed", "MethodNotAllowed", "The path does not take this method"}
	noVersion        = answer{http.StatusBadRequest, "", "MissingApiVersionParameter", ""}
	badVersion       = answer{http.StatusBadRequest, "", "InvalidApiVersionParameter", ""}
)

// versionError is a request of ARM without the version that is served.
type versionError struct {
	answer
	text string
}

func (e versionError) Error() string { return e.text }

func answerOf(err error) answer {
	if v, ok := errors.AsType[versionError](err); ok {
		return v.answer
	}
	if errors.Is(err, errMethod) {
		return methodNotAllowed
	}
	return answers[fault.KindOf(err)]
}

// public is what the peer may read of an error.
func public(err error) string {
	if v, ok := errors.AsType[versionError](err); ok {
		return v.text
	}
	if errors.Is(err, errMethod) {
		return "this path does not take the method"
	}
	return fault.Public(err)
}

// problem is an error of the public API (sphere §11.1), which come in arrays.
type problem struct {
	ErrorCode string
	Title     string
	Details   string
}

func problemOf(err error) *problem {
	if err == nil {
		return nil
	}
	a := answerOf(err)
	return &problem{a.code, a.title, public(err)}
}

// armError is an error of ARM.
type armError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refuse answers a failure, and logs it once.
func (h *Head) refuse(q *request, segments []string, err error) {
	if q.Context().Err() != nil {
		return // the peer left
	}
	a := answerOf(err)
	level := slog.LevelInfo
	if a.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	h.log.Log(q.Context(), level, "request refused", "head", "sphere", "method", q.Method, "path", q.URL.EscapedPath(),
		"status", a.status, "code", a.code, "who", q.caller.Subject, "remote", q.RemoteAddr, "err", err)
	header := q.w.Header()
	if d, ok := errors.AsType[denied](err); ok {
		header.Set("WWW-Authenticate", challenge(d.presented))
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	} else if a.code == "Unavailable" {
		header.Set("Retry-After", "2")
	}
	if errors.Is(err, errMethod) {
		header.Set("Allow", strings.Join(allowed(segments), ", "))
	}
	var body any = []*problem{problemOf(err)}
	if len(segments) > 0 && strings.EqualFold(segments[0], "subscriptions") {
		body = map[string]armError{"error": {a.arm, public(err)}}
		header.Set("X-Ms-Error-Code", a.arm)
	}
	text, err := json.Marshal(body)
	if err != nil {
		text = nil // only of what cannot be: texts always marshal
	}
	rest.JSON(q.w, a.status, "", text)
}

// challenge is RFC 6750 §3: a request without a token learns of no error.
func challenge(presented bool) string {
	if presented {
		return `Bearer realm="sphere", error="invalid_token"`
	}
	return `Bearer realm="sphere"`
}
