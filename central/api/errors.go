package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/vauban-iot/vauban/fault"
)

// answer is how a kind of failure looks to the caller.
type answer struct {
	status int
	code   string // stable; programs decide by it
}

// answers has a row for every fault.Kind. Most kinds come from devices and never get here;
// they still have an honest answer for the day one does.
var answers = map[fault.Kind]answer{
	fault.Internal:           {http.StatusInternalServerError, "InternalError"},
	fault.Invalid:            {http.StatusBadRequest, "InvalidArgument"},
	fault.Malformed:          {http.StatusBadRequest, "MalformedRequest"},
	fault.InvalidScope:       {http.StatusBadRequest, "InvalidScope"},
	fault.Unauthorized:       {http.StatusUnauthorized, "Unauthorized"},
	fault.Forbidden:          {http.StatusForbidden, "Forbidden"},
	fault.Disabled:           {http.StatusForbidden, "DeviceDisabled"},
	fault.QueueFull:          {http.StatusConflict, "QueueFull"},
	fault.QuotaExceeded:      {http.StatusForbidden, "QuotaExceeded"},
	fault.NotFound:           {http.StatusNotFound, "NotFound"},
	fault.NotOnline:          {http.StatusConflict, "DeviceNotOnline"},
	fault.ConnectionClosed:   {http.StatusConflict, "DeviceLeft"},
	fault.AlreadyExists:      {http.StatusConflict, "AlreadyExists"},
	fault.PreconditionFailed: {http.StatusPreconditionFailed, "PreconditionFailed"},
	fault.LockLost:           {http.StatusPreconditionFailed, "LockLost"},
	fault.TooLarge:           {http.StatusRequestEntityTooLarge, "TooLarge"},
	fault.Throttled:          {http.StatusTooManyRequests, "Throttled"},
	fault.BadDeviceResponse:  {http.StatusBadGateway, "BadDeviceResponse"},
	fault.Unavailable:        {http.StatusServiceUnavailable, "Unavailable"},
	fault.Timeout:            {http.StatusGatewayTimeout, "Timeout"},
}

const methodNotAllowed = "MethodNotAllowed"

type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func answerTo(err error) answer {
	if ans, ok := answers[fault.KindOf(err)]; ok {
		return ans
	}
	return answers[fault.Internal]
}

// refuse answers with err. Only what is our defect is logged loudly; the rest is the caller's.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return // the caller left
	}
	if e, ok := errors.AsType[methodError](err); ok {
		w.Header().Set("Allow", e.allowed)
		a.write(w, http.StatusMethodNotAllowed, errorDetail{methodNotAllowed, e.Error()})
		return
	}
	kind, ans := fault.KindOf(err), answerTo(err)
	if ans.status == http.StatusInternalServerError {
		a.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	} else {
		a.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "kind", kind.String(), "err", err)
	}
	if kind == fault.Unauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="vauban"`)
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	a.write(w, ans.status, errorDetail{ans.code, fault.Public(err)})
}

func (a *API) write(w http.ResponseWriter, status int, d errorDetail) {
	if err := writeJSON(w, status, errorBody{d}); err != nil {
		panic(err) // two strings always marshal
	}
}
