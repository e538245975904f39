package mqtt

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
)

func isDisconnect(cause error) bool { return errors.Is(cause, errDisconnect) }

// twinCode is this head's table from kinds to the status and code of a twin error (hub-device §3.7, §8).
func twinCode(k fault.Kind) (status, code int) {
	switch k {
	case fault.Invalid, fault.TooLarge, fault.InvalidScope:
		return 400, 400004
	case fault.Malformed:
		return 400, 400006
	case fault.Unauthorized, fault.Disabled:
		return 401, 401003
	case fault.Forbidden:
		return 401, 401002
	case fault.NotFound:
		return 404, 404001
	case fault.NotOnline:
		return 404, 404103
	case fault.ConnectionClosed:
		return 404, 404104
	case fault.AlreadyExists:
		return 409, 409001
	case fault.PreconditionFailed:
		return 412, 412001
	case fault.LockLost:
		return 412, 412002
	case fault.QueueFull:
		return 403, 403004
	case fault.QuotaExceeded:
		return 403, 403002
	case fault.Throttled:
		return 429, 429001
	case fault.BadDeviceResponse:
		return 502, 502000
	case fault.Unavailable:
		return 503, 503001
	case fault.Timeout:
		return 504, 504101
	default:
		return 500, 500001
	}
}

// twinError is the body of a refused twin request. Node reads nothing but it: a
// status without it looks like success (hub-device §9.1).
type twinError struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
	Info         *int   `json:"info"`
}

func twinRefusal(err error) (status int, body []byte) {
	status, code := twinCode(fault.KindOf(err))
	body, jerr := json.Marshal(twinError{
		ErrorCode: code, TrackingID: nonce.New(), Message: fault.Public(err),
		TimestampUTC: nanoTime(time.Now()),
	})
	if jerr != nil {
		panic(jerr) // strings and numbers always marshal
	}
	return status, body
}
