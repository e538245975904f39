package service

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/nonce"
)

// code is a row of hub-service §2.9: HTTP status, number and name.
type code struct {
	status int
	number int
	name   string
}

// codeOf is this head's table from kinds to Azure's codes.
func codeOf(k fault.Kind) code {
	switch k {
	case fault.Invalid:
		return code{400, 400004, "ArgumentInvalid"}
	case fault.Malformed:
		return code{400, 400006, "IotHubFormatError"}
	case fault.InvalidScope:
		return code{400, 400028, "InvalidDeviceScope"}
	case fault.Unauthorized:
		return code{401, 401003, "IotHubUnauthorized"}
	case fault.Forbidden:
		return code{401, 401002, "IotHubUnauthorizedAccess"}
	case fault.Disabled:
		return code{403, 403012, "DeviceDisabled"}
	case fault.QuotaExceeded:
		return code{403, 403002, "IotHubQuotaExceeded"}
	case fault.QueueFull:
		return code{403, 403004, "DeviceMaximumQueueDepthExceeded"}
	case fault.NotFound:
		return code{404, 404001, "DeviceNotFound"}
	case fault.NotOnline:
		return code{404, 404103, "DeviceNotOnline"}
	case fault.ConnectionClosed:
		return code{404, 404104, "DeviceConnectionClosedRemotely"}
	case fault.AlreadyExists:
		return code{409, 409001, "DeviceAlreadyExists"}
	case fault.PreconditionFailed:
		return code{412, 412001, "PreconditionFailed"}
	case fault.LockLost:
		return code{412, 412002, "DeviceMessageLockLost"}
	case fault.TooLarge:
		return code{413, 413001, "MessageTooLarge"}
	case fault.Throttled:
		return code{429, 429001, "ThrottlingException"}
	case fault.BadDeviceResponse:
		return code{502, 502000, "GenericBadGateway"}
	case fault.Unavailable:
		return code{503, 503001, "ServiceUnavailable"}
	case fault.Timeout:
		return code{504, 504101, "GatewayTimeout"}
	default:
		return code{500, 500001, "ServerError"}
	}
}

// methodCodes are the codes that mean something else where a direct method was asked for (hub-service §5.1).
var methodCodes = map[fault.Kind]code{
	fault.Throttled:         {403, 403800, "DeviceMaximumInflightMethodExceeded"},
	fault.BadDeviceResponse: {502, 502000, "InvalidResponseWhileProxying"},
}

// formA is the error body of everything but direct methods: clients cut Message at
// its first ";" and want text on both sides (hub-service §2.9).
type formA struct {
	Message          string
	ExceptionMessage string
}

// formB stands as JSON text in Message, for direct methods. Its members are scalars: the .NET
// client reads them into a map of strings.
type formB struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
}

// levelOf tells our failures from everybody else's: a device that is silent or talks nonsense is not ours.
func levelOf(err error) slog.Level {
	switch fault.KindOf(err) {
	case fault.Internal, fault.Unavailable:
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (h *Head) refuse(q *request, err error, b bool) {
	c := codeOf(fault.KindOf(err))
	if m, ok := methodCodes[fault.KindOf(err)]; ok && b {
		c = m
	}
	text := fault.Public(err)
	if own, ok := errors.AsType[coded](err); ok {
		c = own.code
	}
	switch {
	case errors.Is(err, errMethodNotAllowed):
		c, text = code{405, 405000, "GenericMethodNotAllowed"}, "this path does not take "+q.Method
	case errors.Is(err, registry.ErrDefinedTwice):
		c = code{400, 400011, "DeviceDefinedMultipleTimes"}
	case errors.Is(err, errNoRoute):
		c = code{404, 404000, "GenericNotFound"}
	default:
		if m, ok := h.moduleCode(q.Context(), q.id(), err); ok {
			c = m
		}
	}
	tracking := nonce.New()
	now := time.Now().UTC()
	level := levelOf(err)
	if c.status == http.StatusMethodNotAllowed {
		level = slog.LevelInfo
	}
	h.log.Log(q.Context(), level, "service request refused", "head", "service", "method", q.Method, "path", strings.Join(q.segments, "/"),
		"status", c.status, "code", c.name, "tracking", tracking, "remote", q.RemoteAddr, "err", err)
	e, ok := errors.AsType[*fault.Error](err)
	if ok && e.RetryAfter > 0 {
		q.w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter/time.Second)+1))
	}
	body := formA{
		Message:          "ErrorCode:" + c.name + ";" + strings.ReplaceAll(text, ";", ","),
		ExceptionMessage: "Tracking ID:" + tracking + "-G:1-TimeStamp:" + now.Format("01/02/2006 15:04:05"),
	}
	if b {
		inner, _ := json.Marshal(formB{c.number, tracking, text, now.Format("2006-01-02T15:04:05.0000000Z")}) // cannot fail
		body = formA{Message: string(inner)}
	}
	data, _ := json.Marshal(body) // two strings: cannot fail
	q.w.Header()["iothub-errorcode"] = []string{c.name}
	q.w.Header()["x-ms-request-id"] = []string{tracking}
	rest.JSON(q.w, c.status, "", data)
}

var _ http.Handler = (*Head)(nil)
