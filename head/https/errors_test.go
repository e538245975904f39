package https_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/https"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/iot"
)

// failing is a hub that fails in one way.
type failing struct{ err error }

func (f failing) Visit(context.Context, iot.Credentials) (iot.Visit, error) { return nil, f.err }

func (f failing) ModuleOf(context.Context, iot.Credentials, string) (registry.Identity, error) {
	return registry.Identity{}, f.err
}

func (f failing) InvokeFrom(context.Context, iot.ID, iot.ID, command.Method) (command.Result, error) {
	return command.Result{}, f.err
}

func TestRefusals_EveryKind(t *testing.T) {
	t.Parallel()
	want := map[fault.Kind]struct {
		status int
		code   string
	}{
		fault.Internal: {500, "ServerError"}, fault.Invalid: {400, "ArgumentInvalid"}, fault.Malformed: {400, "IotHubFormatError"},
		fault.InvalidScope: {400, "ArgumentInvalid"}, fault.Unauthorized: {401, "IotHubUnauthorized"}, fault.Forbidden: {401, "IotHubUnauthorizedAccess"},
		fault.Disabled: {403, "DeviceDisabled"}, fault.QueueFull: {403, "DeviceMaximumQueueDepthExceeded"}, fault.QuotaExceeded: {403, "IotHubQuotaExceeded"}, fault.NotFound: {404, "DeviceNotFound"},
		fault.NotOnline: {404, "DeviceNotOnline"}, fault.ConnectionClosed: {404, "DeviceConnectionClosedRemotely"}, fault.AlreadyExists: {409, "DeviceAlreadyExists"},
		fault.PreconditionFailed: {412, "PreconditionFailed"}, fault.LockLost: {412, "DeviceMessageLockLost"}, fault.TooLarge: {413, "MessageTooLarge"},
		fault.Throttled: {429, "ThrottlingException"}, fault.BadDeviceResponse: {502, "GenericBadGateway"}, fault.Unavailable: {503, "ServiceUnavailable"},
		fault.Timeout: {504, "GatewayTimeout"},
	}
	check := func(path string, err error, status int, code string) {
		t.Helper()
		h := https.New(failing{err}, slog.New(slog.DiscardHandler))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader("x")))
		a := answer{status: w.Code, header: map[string]string{}, body: w.Body.Bytes()}
		for name, values := range w.Header() {
			a.header[name] = values[0]
		}
		a.want(t, status)
		checkRefusal(t, a, code)
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("the answer tells what only the log may: %s", w.Body)
		}
	}
	for _, k := range fault.Kinds() {
		w, ok := want[k]
		if !ok {
			t.Errorf("kind %q has no row in this test", k)
			continue
		}
		check("/devices/d/messages/events", fault.Wrap(k, context.Canceled, "text; with: marks"), w.status, w.code)
	}
	check("/devices/d/modules/m/messages/events", fault.New(fault.NotFound, "x"), 404, "ModuleNotFound")
	check("/devices/d/messages/events", context.DeadlineExceeded, 500, "ServerError")
	check("/devices/d/files", upload.ErrTooMany, 403, "DeviceMaximumActiveFileUploadLimitExceeded")
	check("/devices/d/files", upload.ErrNoStorage, 400, "DefaultStorageEndpointNotConfigured")
	check("/devices/d/files/notifications", upload.ErrCorrelation, 400, "InvalidFileUploadCorrelationId")
	check("/devices/d/files/notifications", upload.ErrUnknown, 400, "ExpiredFileUploadCorrelationId")
	check("/devices/d/files/notifications", upload.ErrNothing, 400, "InvalidStorageEndpointOrBlob")

	w := httptest.NewRecorder()
	https.New(failing{&fault.Error{Kind: fault.Throttled, RetryAfter: 1500 * time.Millisecond}}, slog.New(slog.DiscardHandler)).
		ServeHTTP(w, httptest.NewRequest("POST", "/devices/d/messages/events", strings.NewReader("x")))
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After is %q, want 2", got)
	}
}
