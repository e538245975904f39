package https

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/nonce"
)

// code is a row of hub-device §8: HTTP status and name.
type code struct {
	status int
	name   string
}

// codeOf is this head's table from kinds to Azure's codes.
func codeOf(k fault.Kind) code {
	switch k {
	case fault.Invalid, fault.InvalidScope: // no device names a scope here
		return code{400, "ArgumentInvalid"}
	case fault.Malformed:
		return code{400, "IotHubFormatError"}
	case fault.Unauthorized:
		return code{401, "IotHubUnauthorized"}
	case fault.Forbidden:
		return code{401, "IotHubUnauthorizedAccess"}
	case fault.Disabled:
		return code{403, "DeviceDisabled"}
	case fault.QuotaExceeded:
		return code{403, "IotHubQuotaExceeded"}
	case fault.QueueFull:
		return code{403, "DeviceMaximumQueueDepthExceeded"}
	case fault.NotFound:
		return code{404, "DeviceNotFound"}
	case fault.NotOnline:
		return code{404, "DeviceNotOnline"}
	case fault.ConnectionClosed:
		return code{404, "DeviceConnectionClosedRemotely"}
	case fault.AlreadyExists:
		return code{409, "DeviceAlreadyExists"}
	case fault.PreconditionFailed:
		return code{412, "PreconditionFailed"}
	case fault.LockLost:
		return code{412, "DeviceMessageLockLost"}
	case fault.TooLarge:
		return code{413, "MessageTooLarge"}
	case fault.Throttled:
		return code{429, "ThrottlingException"}
	case fault.BadDeviceResponse:
		return code{502, "GenericBadGateway"}
	case fault.Unavailable:
		return code{503, "ServiceUnavailable"}
	case fault.Timeout:
		return code{504, "GatewayTimeout"}
	default:
		return code{500, "ServerError"}
	}
}

// special are the failures that have a code apart from their kind's.
var special = []struct {
	err error
	code
}{
	{errMethod, code{405, "GenericMethodNotAllowed"}},
	{errNoRoute, code{404, "GenericNotFound"}},
	{upload.ErrTooMany, code{403, "DeviceMaximumActiveFileUploadLimitExceeded"}},
	{upload.ErrNoStorage, code{400, "DefaultStorageEndpointNotConfigured"}},
	{upload.ErrCorrelation, code{400, "InvalidFileUploadCorrelationId"}},
	{upload.ErrUnknown, code{400, "ExpiredFileUploadCorrelationId"}},
	{upload.ErrNothing, code{400, "InvalidStorageEndpointOrBlob"}},
}

// refuse answers as hub-device §4.1 says: clients cut Message at its first ";" and want text on both sides.
func (h *Head) refuse(q *request, err error) {
	c, text := codeOf(fault.KindOf(err)), fault.Public(err)
	if fault.Is(err, fault.NotFound) && q.id.Module != "" {
		c.name = "ModuleNotFound"
	}
	for _, s := range special {
		if errors.Is(err, s.err) {
			c = s.code
		}
	}
	if c.status == http.StatusMethodNotAllowed {
		text = "this path does not take " + q.Method
	}
	level := slog.LevelInfo
	if c.status >= 500 {
		level = slog.LevelError
	}
	tracking := nonce.New()
	h.log.Log(q.Context(), level, "device request refused", "head", "https", "device", q.id.Device, "module", q.id.Module,
		"method", q.Method, "path", strings.Join(q.segments, "/"), "status", c.status, "code", c.name, "tracking", tracking,
		"remote", q.RemoteAddr, "err", err)
	body, _ := marshal(struct { // two strings: cannot fail
		Message          string
		ExceptionMessage string
	}{
		"ErrorCode:" + c.name + ";" + strings.ReplaceAll(text, ";", ","),
		"Tracking ID:" + tracking + "-TimeStamp:" + time.Now().UTC().Format("01/02/2006 15:04:05"),
	})
	header := q.w.Header()
	if e, ok := errors.AsType[*fault.Error](err); ok && e.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(e.RetryAfter/time.Second)+1))
	}
	// A client that still sends sees the refusal only if what it sends is taken. One that asked first does not send.
	if q.Header.Get("Expect") == "" {
		done := q.patience(drainTime)
		_, _ = io.CopyN(io.Discard, q.Body, maxDrain)
		done()
	}
	header["iothub-errorcode"] = []string{c.name}
	header["iothub-servicetrackingid"] = []string{tracking}
	header["x-ms-request-id"] = []string{tracking}
	rest.JSON(q.w, c.status, "", body)
}

// maxDrain bounds what is read of a body only to be thrown away.
const maxDrain = 1 << 20

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
