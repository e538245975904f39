package sphere

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
	"github.com/vauban-iot/vauban/head/rest"
)

// answer is how a failure is told.
type answer struct {
	status int
	code   string // of the public API
	title  string
}

// answers is the one table of kinds (sphere §11: clients of the public API send again what was answered 429 and 500, so what passes is one of these).
var answers = map[fault.Kind]answer{
	fault.Internal:           {http.StatusInternalServerError, "InternalError", "The request could not be completed"},
	fault.Invalid:            {http.StatusBadRequest, "InvalidArgument", "A value breaks a rule"},
	fault.Malformed:          {http.StatusBadRequest, "MalformedRequest", "The request cannot be read"},
	fault.InvalidScope:       {http.StatusBadRequest, "InvalidArgument", "A value breaks a rule"},
	fault.Unauthorized:       {http.StatusUnauthorized, "Unauthorized", "The caller is not signed in"},
	fault.Forbidden:          {http.StatusForbidden, "Forbidden", "The caller may not do this"},
	fault.Disabled:           {http.StatusForbidden, "Disabled", "The device is disabled"},
	fault.QueueFull:          {http.StatusTooManyRequests, "TooManyRequests", "Too many requests"},
	fault.QuotaExceeded:      {http.StatusForbidden, "QuotaExceeded", "There are as many as there may be"},
	fault.NotFound:           {http.StatusNotFound, "NotFound", "It does not exist"},
	fault.NotOnline:          {http.StatusNotFound, "NotFound", "It does not exist"},
	fault.ConnectionClosed:   {http.StatusNotFound, "NotFound", "It does not exist"},
	fault.AlreadyExists:      {http.StatusConflict, "Conflict", "It conflicts with what stands"},
	fault.PreconditionFailed: {http.StatusPreconditionFailed, "PreconditionFailed", "It was changed since"},
	fault.LockLost:           {http.StatusPreconditionFailed, "PreconditionFailed", "It was changed since"},
	fault.TooLarge:           {http.StatusRequestEntityTooLarge, "TooLarge", "The request is too large"},
	fault.Throttled:          {http.StatusTooManyRequests, "TooManyRequests", "Too many requests"},
	fault.BadDeviceResponse:  {http.StatusInternalServerError, "InternalError", "The request could not be completed"},
	fault.Unavailable:        {http.StatusInternalServerError, "Unavailable", "The service is busy or stopping"},
	fault.Timeout:            {http.StatusInternalServerError, "Unavailable", "The service is busy or stopping"},
}

// answerOf is how the public API tells a failure; of ARM it has the status.
func answerOf(err error) answer {
	switch a := arm.AnswerOf(err); {
	case errors.Is(err, arm.ErrMethod):
		return answer{a.Status, a.Code, "The path does not take this method"}
	case arm.IsVersion(err): // of which the public API has none
		return answer{status: a.Status}
	}
	return answers[fault.KindOf(err)]
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
	return &problem{a.code, a.title, arm.Public(err)}
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
	if retry := arm.Headers(header, "sphere", err); !retry && a.code == "Unavailable" {
		header.Set("Retry-After", "2")
	}
	if errors.Is(err, arm.ErrMethod) {
		header.Set("Allow", strings.Join(allowed(segments), ", "))
	}
	if len(segments) > 0 && strings.EqualFold(segments[0], "subscriptions") {
		rest.JSON(q.w, a.status, "", arm.Body(header, err))
		return
	}
	text, err := json.Marshal([]*problem{problemOf(err)})
	if err != nil {
		text = nil // only of what cannot be: texts always marshal
	}
	rest.JSON(q.w, a.status, "", text)
}
