package security

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
	code   string
}

// answers is the one table of kinds.
var answers = map[fault.Kind]answer{
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

// Refusals that only HTTP knows.
var (
	methodNotAllowed = answer{http.StatusMethodNotAllowed, "MethodNotAllowed"}
	noVersion        = answer{http.StatusBadRequest, "MissingApiVersionParameter"}
	badVersion       = answer{http.StatusBadRequest, "InvalidApiVersionParameter"}
)

// versionError is a request without the version that is served.
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

// cloudError is an error of ARM.
type cloudError struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// refuse answers a failure, and logs it once.
func (h *Head) refuse(q *request, path []string, err error) {
	if q.Context().Err() != nil {
		return // the peer left
	}
	a := answerOf(err)
	level := slog.LevelInfo
	if a.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	h.log.Log(q.Context(), level, "request refused", "head", "security", "method", q.Method, "path", q.URL.EscapedPath(),
		"status", a.status, "code", a.code, "who", q.who, "remote", q.RemoteAddr, "err", err)
	header := q.w.Header()
	if d, ok := errors.AsType[denied](err); ok {
		challenge := `Bearer realm="security"` // RFC 6750 §3: a request without a token learns of no error
		if d.presented {
			challenge += `, error="invalid_token"`
		}
		header.Set("WWW-Authenticate", challenge)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	if errors.Is(err, errMethod) {
		header.Set("Allow", strings.Join(allowed(path), ", "))
	}
	header.Set("X-Ms-Error-Code", a.code)
	var body cloudError
	body.Error.Code, body.Error.Message = a.code, public(err)
	text, err := json.Marshal(body)
	if err != nil {
		text = nil // only of what cannot be: texts always marshal
	}
	rest.JSON(q.w, a.status, "", text)
}
