package arm_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
)

func TestOf_AllKinds(t *testing.T) {
	t.Parallel()
	for _, k := range fault.Kinds() {
		if a := arm.Of(k); a.Status < 400 || a.Code == "" {
			t.Errorf("kind %q has no answer", k)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	secret := errors.New("the database is at 10.0.0.1")
	for name, c := range map[string]struct {
		err                     error
		status                  int
		body, challenge, repeat string
	}{
		"a kind":            {fault.New(fault.NotFound, "there is no x"), 404, `{"error":{"code":"ResourceNotFound","message":"there is no x"}}`, "", ""},
		"nobody classified": {secret, 500, `{"error":{"code":"InternalServerError","message":"the server could not complete the request"}}`, "", ""},
		"no version":        {arm.CheckVersion("", "2019-08-01"), 400, `{"error":{"code":"MissingApiVersionParameter","message":"the api-version query parameter is required; it is 2019-08-01 here"}}`, "", ""},
		"another version":   {arm.CheckVersion("2001-01-01", "2019-08-01"), 400, `{"error":{"code":"InvalidApiVersionParameter","message":"the api-version of this resource is 2019-08-01"}}`, "", ""},
		"a method":          {arm.ErrMethod, 405, `{"error":{"code":"MethodNotAllowed","message":"this path does not take the method"}}`, "", ""},
		"no token":          {arm.Denied{Err: fault.New(fault.Unauthorized, "no token")}, 401, `{"error":{"code":"AuthenticationFailed","message":"no token"}}`, `Bearer realm="r"`, ""},
		"a bad token":       {arm.Denied{Err: fault.Wrap(fault.Unauthorized, secret, "a bad token"), Presented: true}, 401, `{"error":{"code":"AuthenticationFailed","message":"a bad token"}}`, `Bearer realm="r", error="invalid_token"`, ""},
		"later":             {&fault.Error{Kind: fault.Throttled, Public: "later", RetryAfter: 1200 * time.Millisecond}, 429, `{"error":{"code":"TooManyRequests","message":"later"}}`, "", "2"},
	} {
		h := http.Header{}
		retry := arm.Headers(h, "r", c.err)
		body := arm.Body(h, c.err)
		a := arm.AnswerOf(c.err)
		if a.Status != c.status || string(body) != c.body || h.Get("WWW-Authenticate") != c.challenge || h.Get("Retry-After") != c.repeat || retry != (c.repeat != "") || h.Get("X-Ms-Error-Code") != a.Code {
			t.Errorf("%s: %d %s, %v", name, a.Status, body, h)
		}
	}
	if err := arm.CheckVersion("2020-08-06-PREVIEW", "2020-08-06-preview"); err != nil {
		t.Errorf("the version in capitals: %v", err)
	}
}
