package dps

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// Reply is the answer to a device, whatever the protocol.
type Reply struct {
	Status      int    // HTTP's number; also the one in the MQTT topic
	RetryAfter  int    // seconds; set on every 202, 429 and 5xx (dps §4.4)
	OperationID string // of an answer about an operation
	Body        []byte // JSON, never empty
	ErrorCode   int    // six digits; zero unless refused
	TrackingID  string // the one in an error body, for the log
	Err         error  // why it was refused, for the log only
}

// codeOf is the table from kinds to what provisioning clients are told: the six digits
// of dps §7.3, whose first three are the HTTP status. Azure documents no 403 here.
func codeOf(k fault.Kind) int {
	switch k {
	case fault.Invalid:
		return 400004
	case fault.Malformed:
		return 400006
	case fault.InvalidScope:
		return 400028
	case fault.Unauthorized, fault.Disabled, fault.Forbidden:
		return 401002
	case fault.QueueFull, fault.QuotaExceeded:
		return 429002
	case fault.NotFound:
		return 404001
	case fault.NotOnline:
		return 404103
	case fault.ConnectionClosed:
		return 404104
	case fault.AlreadyExists:
		return 409001
	case fault.PreconditionFailed:
		return 412001
	case fault.LockLost:
		return 412002
	case fault.TooLarge:
		return 413001
	case fault.Throttled:
		return 429001
	case fault.BadDeviceResponse:
		return 502001
	case fault.Unavailable:
		return 503001
	case fault.Timeout:
		return 504101
	default:
		return 500001
	}
}

// errorRetry is when a client may come back after a 429 or 5xx that names no time itself.
const errorRetry = 5 * time.Second

// ErrorReply turns err into the error body of dps §7.3.
func ErrorReply(err error) Reply {
	code := codeOf(fault.KindOf(err))
	r := Refusal(code, fault.Public(err))
	r.Err = err
	if r.RetryAfter > 0 {
		if e, ok := errors.AsType[*fault.Error](err); ok && e.RetryAfter > 0 {
			r.RetryAfter = int((e.RetryAfter + time.Second - 1) / time.Second)
		}
	}
	return r
}

// Refusal is an error reply with a code of the caller's choice. Its status is the code's first three digits.
func Refusal(code int, message string) Reply {
	r := Reply{Status: code / 1000, ErrorCode: code, TrackingID: guid()}
	if r.Status == 429 || r.Status >= 500 {
		r.RetryAfter = int(errorRetry / time.Second)
	}
	r.Body = marshal(struct {
		ErrorCode    int    `json:"errorCode"`
		TrackingID   string `json:"trackingId"`
		Message      string `json:"message"`
		TimestampUTC string `json:"timestampUtc"`
	}{code, r.TrackingID, message, iot.FormatTime(time.Now())})
	return r
}

// guid is a fresh name in the form of a GUID.
func guid() string {
	n := nonce.New()
	return n[:8] + "-" + n[8:12] + "-" + n[12:16] + "-" + n[16:20] + "-" + n[20:]
}

// marshal writes v without the escapes for HTML that small parsers do not undo.
// v is one of this package's own types, which always can be written.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("dps: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
