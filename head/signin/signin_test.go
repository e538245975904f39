package signin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/openid"
	"github.com/vauban-iot/vauban/access/signin/openid/openidtest"
	"github.com/vauban-iot/vauban/access/signin/signintest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

const (
	mail       = "ada@plant.example"
	password   = "correct horse battery"
	adminToken = "the-administrators-token"
	issuer     = "https://vauban.test"
	verifier   = "a-verifier-of-forty-three-letters-or-more-0123456789"
	redirect   = "http://127.0.0.1:40123/cb"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the OpenID provider logs every request
	os.Exit(m.Run())
}

// world is a head with one account, and one browser.
type world struct {
	t       testing.TB
	service *signin.Service
	head    *Head
	log     *bytes.Buffer
	cookies map[string]string
	addr    string
}

func newWorld(t testing.TB, cfg signin.Config) *world {
	t.Helper()
	w := &world{t: t, log: new(bytes.Buffer), cookies: map[string]string{}, addr: "192.0.2.1:1000"}
	cfg.Logger = slog.New(slog.NewTextHandler(w.log, nil))
	w.service = signintest.New(t, cfg)
	if _, err := w.service.Register(t.Context(), signin.Peer{Administrator: true}, signin.NewUser{Mail: mail, Password: secret.New([]byte(password))}); err != nil {
		t.Fatal(err)
	}
	w.head = newHead(t, w.service, cfg.Logger)
	return w
}

func newHead(t testing.TB, s Core, log *slog.Logger) *Head {
	t.Helper()
	h, err := New(Config{Service: s, Hostname: "vauban.test", Logger: log, Administrator: func(token string) bool { return token == adminToken }})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ask sends a request as the browser does; body is a form, or JSON.
func (w *world) ask(method, target string, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), method, target, strings.NewReader(body))
	r.RemoteAddr, r.Host = w.addr, "vauban.test"
	if method == "POST" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if strings.HasPrefix(body, "{") {
			r.Header.Set("Content-Type", "application/json")
		}
	}
	for name, value := range w.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for _, c := range change {
		c(r)
	}
	rec := httptest.NewRecorder()
	w.head.ServeHTTP(rec, r)
	for _, c := range rec.Result().Cookies() {
		if !c.Secure || !c.HttpOnly || c.Path != "/" || !strings.HasPrefix(c.Name, "__Host-") || c.SameSite != http.SameSiteLaxMode {
			w.t.Errorf("cookie %+v", c)
		}
		if c.MaxAge < 0 {
			delete(w.cookies, c.Name)
		} else {
			w.cookies[c.Name] = c.Value
		}
	}
	return rec
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func asBearer(token string) func(*http.Request) { return with("Authorization", "Bearer "+token) }

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func authorizeURL(change url.Values) string {
	v := url.Values{
		"client_id": {"azsphere"}, "redirect_uri": {redirect}, "response_type": {"code"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"},
		"state": {"a state & more"},
	}
	for k, vs := range change {
		v[k] = vs
	}
	return authorizePath + "?" + v.Encode()
}

var hidden = regexp.MustCompile(`name="flow" value="([^"]+)"`)

// flowOf is the hidden field of a page's form.
func flowOf(t testing.TB, rec *httptest.ResponseRecorder) string {
	t.Helper()
	m := hidden.FindStringSubmatch(rec.Body.String())
	if m == nil {
		t.Fatalf("no form but %d %s", rec.Code, rec.Body)
	}
	return html.UnescapeString(m[1])
}

func fields(kv ...string) string {
	v := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		v.Add(kv[i], kv[i+1])
	}
	return v.Encode()
}

// location is where an answer sends the browser.
func location(t testing.TB, rec *httptest.ResponseRecorder) *url.URL {
	t.Helper()
	u, err := url.Parse(rec.Header().Get("Location"))
	if err != nil || rec.Code != http.StatusSeeOther {
		t.Fatalf("%d to %q, %v: %s", rec.Code, rec.Header().Get("Location"), err, rec.Body)
	}
	return u
}

func (w *world) token(kv ...string) (int, map[string]any) {
	w.t.Helper()
	rec := w.ask("POST", tokenPath, fields(kv...))
	var m map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &m); err != nil || rec.Header().Get("Cache-Control") != "no-store" {
		w.t.Fatalf("%d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	return rec.Code, m
}

func (w *world) signIn() string {
	w.t.Helper()
	page := w.ask("GET", authorizeURL(nil), "")
	return location(w.t, w.ask("POST", continuePath, fields("flow", flowOf(w.t, page), "mail", mail, "password", password))).Query().Get("code")
}

func TestAuthorizationCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	page := w.ask("GET", authorizeURL(nil), "")
	csp := page.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "form-action 'self' http://127.0.0.1:40123;", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("the policy is %q, want %q in it", csp, want)
		}
	}
	if page.Code != 200 || page.Header().Get("Cache-Control") != "no-store" || strings.Contains(page.Body.String(), "<script") || strings.Contains(page.Body.String(), "style=") {
		t.Errorf("%d %v %s", page.Code, page.Header(), page.Body)
	}
	flow := flowOf(t, page)
	for name, c := range map[string]struct{ mail, password string }{"wrong": {mail, "wrong horse battery"}, "unknown": {"eve@plant.example", password}} {
		rec := w.ask("POST", continuePath, fields("flow", flow, "mail", c.mail, "password", c.password))
		if rec.Code != 401 || !strings.Contains(rec.Body.String(), "The mail address or the password is wrong.") || !strings.Contains(rec.Body.String(), `value="`+c.mail) {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
		if strings.Contains(rec.Body.String(), c.password) {
			t.Errorf("%s: the password is in the page", name)
		}
		flow = flowOf(t, rec)
	}
	back := location(t, w.ask("POST", continuePath, fields("flow", flow, "mail", mail, "password", password)))
	q := back.Query()
	if !strings.HasPrefix(back.String(), redirect+"?") || q.Get("state") != "a state & more" || q.Get("iss") != issuer || q.Get("code") == "" {
		t.Fatalf("sent to %s", back)
	}
	grant := []string{"grant_type", "authorization_code", "client_id", "azsphere", "redirect_uri", redirect, "code", q.Get("code"), "code_verifier"}
	status, m := w.token(append(grant, "wrong"+verifier)...)
	if status != 400 || m["error"] != "invalid_grant" {
		t.Errorf("a wrong verifier: %d %v", status, m)
	}
	status, m = w.token(append(grant, verifier)...)
	if status != 200 || m["token_type"] != "Bearer" || m["expires_in"] != 900.0 || m["scope"] != "user_impersonation" {
		t.Fatalf("%d %v", status, m)
	}
	access, refresh := m["access_token"].(string), m["refresh_token"].(string)
	me := w.ask("GET", userPath, "", asBearer(access))
	if me.Code != 200 || !strings.Contains(me.Body.String(), `"mail":"`+mail+`"`) {
		t.Errorf("%d %s", me.Code, me.Body)
	}
	status, m = w.token("grant_type", "refresh_token", "client_id", "azsphere", "refresh_token", refresh)
	if status != 200 || m["refresh_token"] == refresh {
		t.Errorf("refresh: %d %v", status, m)
	}
	if rec := w.ask("POST", revokePath, fields("token", m["refresh_token"].(string))); rec.Code != 200 {
		t.Errorf("revoke: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask("GET", userPath, "", asBearer(access)); rec.Code != 401 || !strings.Contains(rec.Header().Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("after the end: %d %v", rec.Code, rec.Header())
	}
	for _, s := range []string{access, refresh, password, q.Get("code"), verifier} {
		if strings.Contains(w.log.String(), s) {
			t.Errorf("a secret is logged: %s", w.log)
		}
	}
}

func TestAuthorize_Refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	for name, c := range map[string]struct {
		change url.Values
		status int
		code   string // of the error that the program gets; empty: nobody is sent anywhere
	}{
		"no client":         {url.Values{"client_id": {""}}, 400, ""},
		"another client":    {url.Values{"client_id": {"x"}}, 400, ""},
		"a redirect away":   {url.Values{"redirect_uri": {"https://evil.example/"}}, 400, ""},
		"no redirect":       {url.Values{"redirect_uri": nil}, 400, ""},
		"two clients":       {url.Values{"client_id": {"azsphere", "azsphere"}}, 400, ""},
		"a huge state":      {url.Values{"state": {strings.Repeat("s", 600)}}, 400, ""},
		"a huge query":      {url.Values{"x": {strings.Repeat("s", 6000)}}, 400, ""},
		"a token":           {url.Values{"response_type": {"token"}}, 303, "unsupported_response_type"},
		"no challenge":      {url.Values{"code_challenge": nil}, 303, "invalid_request"},
		"a plain challenge": {url.Values{"code_challenge_method": {"plain"}}, 303, "invalid_request"},
		"no method":         {url.Values{"code_challenge_method": nil}, 303, "invalid_request"},
	} {
		rec := w.ask("GET", authorizeURL(c.change), "")
		if rec.Code != c.status || c.code == "" && rec.Header().Get("Location") != "" {
			t.Errorf("%s: %d to %q", name, rec.Code, rec.Header().Get("Location"))
		}
		if c.code != "" {
			if q := location(t, rec).Query(); q.Get("error") != c.code || q.Get("state") != "a state & more" {
				t.Errorf("%s: %v", name, q)
			}
		}
	}
	page := w.ask("GET", authorizeURL(nil), "")
	if q := location(t, w.ask("POST", continuePath, fields("flow", flowOf(t, page), "decision", "deny"))).Query(); q.Get("error") != "access_denied" {
		t.Errorf("cancelled: %v", q)
	}
}

// A form is good in the browser it was given to, for a while, as it is, and from this site.
func TestForms_AreBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, signin.Config{})
		flow := flowOf(t, w.ask("GET", authorizeURL(nil), ""))
		good := fields("flow", flow, "mail", mail, "password", password)
		other := newWorld(t, signin.Config{})
		for name, c := range map[string]struct {
			w      *world
			path   string
			body   string
			change func(*http.Request)
			status int
		}{
			"another browser":       {w, continuePath, good, func(r *http.Request) { r.Header.Set("Cookie", browserCookie+"=AAAAAAAAAAAAAAAAAAAAAAAAAA") }, 400},
			"no cookie":             {w, continuePath, good, func(r *http.Request) { r.Header.Del("Cookie") }, 400},
			"another site":          {w, continuePath, good, with("Sec-Fetch-Site", "cross-site"), 403},
			"another origin":        {w, continuePath, good, with("Origin", "https://evil.example"), 403},
			"no form":               {w, continuePath, fields("mail", mail, "password", password), nil, 400},
			"a changed form":        {w, continuePath, strings.Replace(good, flow, flow[:40]+"AAAA"+flow[44:], 1), nil, 400},
			"twice":                 {w, continuePath, good + "&password=x", nil, 400},
			"too much":              {w, continuePath, good + "&x=" + strings.Repeat("x", maxForm), nil, 413},
			"no form at all":        {w, continuePath, "%zz", nil, 400},
			"consent without proof": {w, confirmPath, fields("flow", flow, "decision", "allow"), nil, 400},
			"denial without proof":  {w, confirmPath, fields("flow", flow, "decision", "deny"), nil, 400},
			"consent elsewhere":     {other, confirmPath, fields("flow", flow, "decision", "allow"), nil, 400},
		} {
			var change []func(*http.Request)
			if c.change != nil {
				change = append(change, c.change)
			}
			if rec := c.w.ask("POST", c.path, c.body, change...); rec.Code != c.status || rec.Header().Get("Location") != "" {
				t.Errorf("%s: %d to %q, want %d", name, rec.Code, rec.Header().Get("Location"), c.status)
			}
		}
		time.Sleep(flowLife)
		if rec := w.ask("POST", continuePath, good); rec.Code != 400 {
			t.Errorf("too late: %d", rec.Code)
		}
	})
}

func TestDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, signin.Config{})
		start := func() (device, user string) {
			t.Helper()
			time.Sleep(time.Minute)
			w.addr = "198.51.100.7:5"
			rec := w.ask("POST", startPath, fields("client_id", "azsphere"))
			w.addr = "192.0.2.1:1000"
			var d struct {
				DeviceCode string `json:"device_code"`
				UserCode   string `json:"user_code"`
				URI        string `json:"verification_uri"`
				Complete   string `json:"verification_uri_complete"`
				Interval   int    `json:"interval"`
				Expires    int    `json:"expires_in"`
			}
			if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil || d.URI != issuer+"/signin/device" || d.Complete != d.URI+"?user_code="+d.UserCode || d.Interval != 5 || d.Expires != 900 {
				t.Fatalf("%v %s", err, rec.Body)
			}
			return d.DeviceCode, d.UserCode
		}
		poll := func(device, want string) {
			t.Helper()
			time.Sleep(6 * time.Second)
			status, m := w.token("grant_type", deviceGrant, "client_id", "azsphere", "device_code", device)
			if want == "" && status != 200 || want != "" && (status != 400 || m["error"] != want) {
				t.Errorf("poll: %d %v, want %q", status, m, want)
			}
		}
		decide := func(user, decision string) *httptest.ResponseRecorder {
			t.Helper()
			rec := w.ask("GET", devicePath+"?user_code="+user, "")
			if !strings.Contains(rec.Body.String(), `value="`+user+`"`) {
				t.Errorf("the code is not filled in: %s", rec.Body)
			}
			rec = w.ask("POST", devicePath, fields("user_code", strings.ToLower(user)))
			if !strings.Contains(rec.Body.String(), user) || !strings.Contains(rec.Body.String(), "198.51.100.7") {
				t.Errorf("the page does not say what asks from where: %s", rec.Body)
			}
			rec = w.ask("POST", continuePath, fields("flow", flowOf(t, rec), "mail", mail, "password", password))
			if rec.Code != 200 || !strings.Contains(rec.Body.String(), "Allow") || !strings.Contains(rec.Body.String(), user) {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
			return w.ask("POST", confirmPath, fields("flow", flowOf(t, rec), "decision", decision))
		}
		device, user := start()
		poll(device, "authorization_pending")
		status, m := w.token("grant_type", deviceGrant, "client_id", "azsphere", "device_code", device)
		if status != 400 || m["error"] != "slow_down" {
			t.Errorf("at once: %d %v", status, m)
		}
		if rec := decide(user, "allow"); rec.Code != 200 || !strings.Contains(rec.Body.String(), "You may close this page") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		time.Sleep(5 * time.Second)
		poll(device, "")
		poll(device, "invalid_grant")

		device, user = start()
		if rec := decide(user, "deny"); rec.Code != 200 || !strings.Contains(rec.Body.String(), "not let in") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		poll(device, "access_denied")
		device, _ = start()
		time.Sleep(signin.DeviceLife)
		poll(device, "expired_token")
		poll("nonsense", "invalid_grant")
		if rec := w.ask("POST", devicePath, fields("user_code", `"><b>`)); rec.Code != 404 || strings.Contains(rec.Body.String(), "<b>") {
			t.Errorf("a code of none: %d %s", rec.Code, rec.Body)
		}
		// Leaving decides nothing: the code may have been somebody else's.
		device, user = start()
		rec := w.ask("POST", devicePath, fields("user_code", user))
		if rec = w.ask("POST", continuePath, fields("flow", flowOf(t, rec), "decision", "deny")); rec.Code != 200 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		poll(device, "authorization_pending")
	})
}

func TestToken_Refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	for name, c := range map[string]struct {
		form   string
		status int
		code   string
	}{
		"nothing":              {"", 400, "invalid_request"},
		"no form":              {"%zz", 400, "invalid_request"},
		"a password":           {fields("grant_type", "password", "client_id", "azsphere", "username", mail, "password", password), 400, "unsupported_grant_type"},
		"twice":                {fields("grant_type", "refresh_token", "grant_type", "refresh_token"), 400, "invalid_request"},
		"no client":            {fields("grant_type", "refresh_token", "refresh_token", "x"), 401, "invalid_client"},
		"no token":             {fields("grant_type", "refresh_token", "client_id", "azsphere"), 400, "invalid_grant"},
		"no code":              {fields("grant_type", "authorization_code", "client_id", "azsphere"), 400, "invalid_grant"},
		"no device code":       {fields("grant_type", deviceGrant, "client_id", "azsphere"), 400, "invalid_grant"},
		"much":                 {"grant_type=" + strings.Repeat("x", maxForm), 413, "invalid_request"},
		"a code of none":       {fields("grant_type", "authorization_code", "client_id", "azsphere", "code", "\x00\xff"), 400, "invalid_grant"},
		"no such client":       {fields("grant_type", "authorization_code", "client_id", "\xff", "code", "x"), 401, "invalid_client"},
		"a refresh token none": {fields("grant_type", "refresh_token", "client_id", "azsphere", "refresh_token", "x"), 400, "invalid_grant"},
	} {
		rec := w.ask("POST", tokenPath, c.form)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), `"error":"`+c.code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", name, rec.Code, rec.Body, c.status, c.code)
		}
	}
	if rec := w.ask("GET", tokenPath, ""); rec.Code != 405 {
		t.Errorf("GET: %d", rec.Code)
	}
	if rec := w.ask("POST", startPath, fields("client_id", "x")); rec.Code != 401 {
		t.Errorf("device authorization of a stranger: %d", rec.Code)
	}
	if rec := w.ask("POST", revokePath, ""); rec.Code != 400 {
		t.Errorf("revocation of nothing: %d", rec.Code)
	}
	if rec := w.ask("POST", revokePath, fields("token", "nonsense")); rec.Code != 200 {
		t.Errorf("revocation of nonsense: %d", rec.Code)
	}
	code := w.signIn()
	form := []string{"grant_type", "authorization_code", "client_id", "azsphere", "redirect_uri", redirect, "code", code, "code_verifier", verifier}
	if status, m := w.token(form...); status != 200 {
		t.Fatalf("%d %v", status, m)
	}
	if status, m := w.token(form...); status != 400 || m["error"] != "invalid_grant" {
		t.Errorf("replayed: %d %v", status, m)
	}
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	ask := func(what, method, path, body string, status int, token string) map[string]any {
		t.Helper()
		rec := w.ask(method, path, body, asBearer(token))
		var m map[string]any
		_ = json.Unmarshal(rec.Body.Bytes(), &m)
		if rec.Code != status {
			t.Errorf("%s: %d %s, want %d", what, rec.Code, rec.Body, status)
		}
		return m
	}
	eve := func(invitation string) string {
		b, _ := json.Marshal(map[string]string{"mail": "eve@x.example", "password": password, "invitation": invitation})
		return string(b)
	}
	if m := ask("a stranger", "POST", registerPath, eve(""), 403, ""); m["error"] != "registration_not_allowed" {
		t.Errorf("a stranger: %v", m)
	}
	ask("a wrong token", "POST", registerPath, eve(""), 403, adminToken+"x")
	ask("an invitation by a stranger", "POST", invitationPath, `{"mail":"eve@x.example"}`, 401, "")
	ask("users to a stranger", "GET", usersPath, "", 401, "nonsense")
	// What a page of another site lets the browser of an administrator send.
	for _, path := range []string{registerPath, passwordPath, invitationPath, usersPath + "/x/disable"} {
		rec := w.ask("POST", path, eve(""), func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+adminToken)
			r.Header.Set("Content-Type", "text/plain")
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Origin", "https://evil.example")
		})
		if rec.Code != http.StatusForbidden {
			t.Errorf("%s from another site: %d %s", path, rec.Code, rec.Body)
		}
	}
	m := ask("an invitation", "POST", invitationPath, `{"mail":"eve@x.example","days":3}`, 201, adminToken)
	user := ask("invited", "POST", registerPath, eve(m["invitation"].(string)), 201, "")
	ask("again", "POST", registerPath, eve(""), 409, adminToken)
	ask("a bad password", "POST", registerPath, `{"mail":"mal@x.example","password":"short"}`, 400, adminToken)
	ask("no JSON", "POST", registerPath, `{"mail":`, 400, adminToken)
	list := ask("users", "GET", usersPath+"?top=1&after=ada@plant.example", "", 200, adminToken)
	if us := list["users"].([]any); len(us) != 1 || us[0].(map[string]any)["userId"] != user["userId"] {
		t.Errorf("users: %v", list)
	}
	ask("too many users", "GET", usersPath+"?top=1000", "", 400, adminToken)

	_, tokens := w.token("grant_type", "authorization_code", "client_id", "azsphere", "redirect_uri", redirect, "code", w.signIn(), "code_verifier", verifier)
	access := tokens["access_token"].(string)
	me := ask("me", "GET", userPath, "", 200, access)
	ask("a wrong old password", "POST", passwordPath, `{"old":"wrong horse battery","new":"another horse battery"}`, 403, access)
	ask("users to a user", "GET", usersPath, "", 401, access)
	ask("a user may not disable", "POST", usersPath+"/"+user["userId"].(string)+"/disable", "", 401, access)
	ask("no such action", "POST", usersPath+"/"+user["userId"].(string)+"/delete", "", 404, adminToken)
	ask("no such user", "POST", usersPath+"/x/disable", "", 404, adminToken)
	ask("disable", "POST", usersPath+"/"+me["userId"].(string)+"/disable", "", 204, adminToken)
	ask("disabled", "GET", userPath, "", 401, access)
	rec := w.ask("POST", continuePath, fields("flow", flowOf(t, w.ask("GET", authorizeURL(nil), "")), "mail", mail, "password", password))
	if !strings.Contains(rec.Body.String(), "The account is disabled") {
		t.Errorf("sign-in of somebody disabled: %d %s", rec.Code, rec.Body)
	}
	ask("enable", "POST", usersPath+"/"+me["userId"].(string)+"/enable", "", 204, adminToken)
	ask("a token from before", "GET", userPath, "", 401, access)
	ask("reset", "POST", usersPath+"/"+me["userId"].(string)+"/password", `{"new":"another horse battery"}`, 204, adminToken)
	ask("revoke", "POST", usersPath+"/"+me["userId"].(string)+"/revoke", "", 204, adminToken)
	if strings.Contains(w.log.String(), password) || strings.Contains(w.log.String(), adminToken) || strings.Contains(w.log.String(), m["invitation"].(string)) {
		t.Errorf("a secret is logged: %s", w.log)
	}
}

// golang.org/x/oauth2 is somebody else's client of both flows, over real sockets.
func TestOAuthClient(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	t.Cleanup(server.Close)
	service := signintest.New(t, signin.Config{Issuer: server.URL})
	if _, err := service.Register(t.Context(), signin.Peer{Administrator: true}, signin.NewUser{Mail: mail, Password: secret.New([]byte(password))}); err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = newHead(t, service, slog.New(slog.DiscardHandler))
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, server.Client())

	// The browser stops where the program would listen.
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: server.Client().Transport, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Scheme == "http" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	read := func(res *http.Response, err error) (string, *http.Response) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b), res
	}
	post := func(path, page string, kv ...string) (string, *http.Response) {
		t.Helper()
		v := url.Values{}
		if m := hidden.FindStringSubmatch(page); m != nil {
			v.Set("flow", html.UnescapeString(m[1]))
		}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return read(browser.PostForm(server.URL+path, v))
	}

	var found struct {
		Authorize string `json:"authorization_endpoint"`
		Token     string `json:"token_endpoint"`
		Device    string `json:"device_authorization_endpoint"`
	}
	body, _ := read(browser.Get(server.URL + metadataPath))
	if err := json.Unmarshal([]byte(body), &found); err != nil {
		t.Fatal(err)
	}
	cfg := &oauth2.Config{ClientID: "azsphere", RedirectURL: redirect, Endpoint: oauth2.Endpoint{
		AuthURL: found.Authorize, TokenURL: found.Token, DeviceAuthURL: found.Device, AuthStyle: oauth2.AuthStyleInParams,
	}}
	v := oauth2.GenerateVerifier()
	page, _ := read(browser.Get(cfg.AuthCodeURL("state", oauth2.S256ChallengeOption(v))))
	_, res := post(continuePath, page, "mail", mail, "password", password)
	back, err := res.Location()
	if err != nil || back.Query().Get("state") != "state" {
		t.Fatalf("%v %v", back, err)
	}
	token, err := cfg.Exchange(ctx, back.Query().Get("code"), oauth2.VerifierOption(v))
	if err != nil {
		t.Fatal(err)
	}
	if u, err := service.Check(ctx, token.AccessToken); err != nil || u.Mail != mail {
		t.Errorf("%v, %v", u, err)
	}
	token.Expiry = time.Now().Add(-time.Minute)
	next, err := cfg.TokenSource(ctx, token).Token()
	if err != nil || next.RefreshToken == token.RefreshToken {
		t.Errorf("refresh: %v, %v", next, err)
	}

	d, err := cfg.DeviceAuth(ctx)
	if err != nil {
		t.Fatal(err)
	}
	page, _ = post(devicePath, "", "user_code", d.UserCode)
	page, _ = post(continuePath, page, "mail", mail, "password", password)
	if page, _ = post(confirmPath, page, "decision", "allow"); !strings.Contains(page, "You may close this page") {
		t.Fatal(page)
	}
	d.Interval = 1 // the first poll may come at any time
	token, err = cfg.DeviceAccessToken(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := service.Check(ctx, token.AccessToken); err != nil || u.Mail != mail {
		t.Errorf("%v, %v", u, err)
	}
}

// A browser goes by a real OpenID provider and comes back.
func TestProvider(t *testing.T) {
	t.Parallel()
	idp := openidtest.Start(t, issuer+providerPath+"corp/callback")
	p, err := openid.New(openid.Config{
		Name: "corp", Title: "Plant & Sons", Issuer: idp.URL, Client: openidtest.ClientID, Secret: secret.New([]byte(openidtest.ClientSecret)),
		Policy: signin.ProviderPolicy{Open: true}, HTTP: idp.Client(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, signin.Config{Providers: []signin.Provider{p}})
	link := regexp.MustCompile(`href="(/signin/provider/corp[^"]+)"`)
	leave := func() string {
		t.Helper()
		page := w.ask("GET", authorizeURL(nil), "")
		m := link.FindStringSubmatch(page.Body.String())
		if m == nil || !strings.Contains(page.Body.String(), "Plant &amp; Sons") {
			t.Fatalf("no link to the provider: %s", page.Body)
		}
		return html.UnescapeString(m[1])
	}
	away := location(t, w.ask("GET", leave(), ""))
	back := idp.Visit(t, away.String(), "mal")
	// Another browser, another state, another provider's name.
	kept := w.cookies[travelCookie]
	for name, target := range map[string]string{
		"another state": back.Path + "?code=" + back.Query().Get("code") + "&state=x",
		"no state":      back.Path + "?code=" + back.Query().Get("code"),
		"another name":  strings.Replace(back.RequestURI(), "/corp/", "/other/", 1),
	} {
		w.cookies[travelCookie] = kept
		if rec := w.ask("GET", target, ""); rec.Code != 400 {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
	if rec := w.ask("GET", back.RequestURI(), ""); rec.Code != 400 {
		t.Errorf("without the cookie, which is for one use: %d", rec.Code)
	}
	w.cookies[travelCookie] = kept
	consent := w.ask("GET", location(t, w.ask("GET", back.RequestURI(), "")).String(), "")
	if consent.Code != 200 || !strings.Contains(consent.Body.String(), "mal@elsewhere.example") || !strings.Contains(consent.Body.String(), "Allow") {
		t.Fatalf("%d %s", consent.Code, consent.Body)
	}
	if q := location(t, w.ask("POST", confirmPath, fields("flow", flowOf(t, consent), "decision", "deny"))).Query(); q.Get("error") != "access_denied" {
		t.Errorf("denied: %v", q)
	}
	q := location(t, w.ask("POST", confirmPath, fields("flow", flowOf(t, consent), "decision", "allow"))).Query()
	status, m := w.token("grant_type", "authorization_code", "client_id", "azsphere", "redirect_uri", redirect, "code", q.Get("code"), "code_verifier", verifier)
	if status != 200 {
		t.Fatalf("%d %v", status, m)
	}
	if u, err := w.service.Check(t.Context(), m["access_token"].(string)); err != nil || u.Mail != "mal@elsewhere.example" {
		t.Errorf("%v, %v", u, err)
	}

	// Refusals bring the sign-in page back, with the reason.
	away = location(t, w.ask("GET", leave(), ""))
	rec := w.ask("GET", idp.Visit(t, away.String(), "eve").RequestURI(), "")
	if rec.Code != 403 || !strings.Contains(rec.Body.String(), "does not say that your mail address is verified") || hidden.FindString(rec.Body.String()) == "" {
		t.Errorf("not verified: %d %s", rec.Code, rec.Body)
	}
	away = location(t, w.ask("GET", leave(), ""))
	rec = w.ask("GET", providerPath+"corp/callback?error=access_denied&error_description=call+555&state="+url.QueryEscape(away.Query().Get("state")), "")
	if rec.Code != 403 || strings.Contains(rec.Body.String(), "555") || !strings.Contains(rec.Body.String(), "You were not signed in there.") {
		t.Errorf("denied there: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask("GET", providerPath+"none?"+strings.SplitN(leave(), "?", 2)[1], ""); rec.Code != 404 {
		t.Errorf("a provider that is not there: %d", rec.Code)
	}
	if rec := w.ask("GET", providerPath+"corp", ""); rec.Code != 400 {
		t.Errorf("without a flow: %d", rec.Code)
	}
}

// away is a provider that does not answer.
type away struct{ signin.Provider }

func (away) Name() string                  { return "away" }
func (away) Title() string                 { return "Away" }
func (away) Policy() signin.ProviderPolicy { return signin.ProviderPolicy{} }
func (away) Begin(context.Context, string) (signin.Trip, error) {
	return signin.Trip{}, fault.Wrap(fault.Unavailable, errors.New("dial tcp"), "the sign-in provider Away does not answer as it should; try again later, or sign in another way")
}

func TestProvider_Away(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{Providers: []signin.Provider{away{}}})
	flow := flowOf(t, w.ask("GET", authorizeURL(nil), ""))
	rec := w.ask("GET", providerPath+"away?"+fields("flow", flow), "")
	if rec.Code != 503 || !strings.Contains(rec.Body.String(), "The sign-in provider Away does not answer") || strings.Contains(rec.Body.String(), "dial") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	rec = w.ask("POST", continuePath, fields("flow", flowOf(t, rec), "mail", mail, "password", password))
	if location(t, rec).Query().Get("code") == "" {
		t.Errorf("the other way in is shut: %s", rec.Body)
	}
}

func TestWords_CoverEveryKind(t *testing.T) {
	t.Parallel()
	for _, k := range fault.Kinds() {
		e := wordsOf(fmt.Errorf("wrapped: %w", fault.Wrap(k, errors.New("hidden"), "public")))
		if e.status < 400 || e.code == "" || strings.Contains(e.text, "hidden") || e.status == 500 && e.text == "public" {
			t.Errorf("%v: %+v", k, e)
		}
	}
	for _, err := range []error{
		signin.ErrCredentials, signin.ErrDisabled, signin.ErrToken, signin.ErrExpired, signin.ErrRevoked, signin.ErrClient, signin.ErrRedirect, signin.ErrChallenge,
		signin.ErrGrant, signin.ErrPending, signin.ErrSlowDown, signin.ErrDenied, signin.ErrCodeExpired, signin.ErrUserCode, signin.ErrRegistration,
		signin.ErrMailTaken, signin.ErrNotVerified, signin.ErrNoProvider,
	} {
		if e := wordsOf(err); e.status >= 500 || e.text != fault.Public(err) {
			t.Errorf("%v: %+v", err, e)
		}
	}
}

func TestSlowedDown_SaysWhen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	flow := flowOf(t, w.ask("GET", authorizeURL(nil), ""))
	for range 6 {
		rec := w.ask("POST", continuePath, fields("flow", flow, "mail", mail, "password", "wrong horse battery"))
		if rec.Code == 429 {
			if s := rec.Header().Get("Retry-After"); s != "30" && s != "29" {
				t.Errorf("retry after %q", s)
			}
			return
		}
	}
	t.Error("guesses go on")
}

func TestOwns(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/signin/token": true, metadataPath: true, "/signin": false, "/signinx": false, "/console/sign-in": false, "/": false,
	} {
		if Owns(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
	w := newWorld(t, signin.Config{})
	if rec := w.ask("GET", stylePath, ""); rec.Code != 200 || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/css") {
		t.Errorf("style: %d %v", rec.Code, rec.Header())
	}
	if rec := w.ask("GET", "/signin/none", ""); rec.Code != 404 {
		t.Errorf("nothing: %d", rec.Code)
	}
}

// Nothing that a stranger sends to the endpoints is our failure.
func FuzzRequests(f *testing.F) {
	w := newWorld(f, signin.Config{})
	f.Add(uint8(0), fields("grant_type", "refresh_token", "client_id", "azsphere", "refresh_token", "vr1_AAAA"))
	f.Add(uint8(1), authorizeURL(nil)[len(authorizePath)+1:])
	f.Add(uint8(2), fields("flow", flowOf(f, w.ask("GET", authorizeURL(nil), "")), "mail", mail))
	f.Add(uint8(3), `{"mail":"a@b.example","password":"x"}`)
	f.Add(uint8(4), "user_code=BBBB-BBBB")
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		paths := []string{tokenPath, authorizePath, continuePath, registerPath, devicePath, confirmPath, revokePath, startPath, providerPath + "x/callback"}
		path := paths[int(which)%len(paths)]
		var r *http.Request
		if path == authorizePath || path == providerPath+"x/callback" {
			r = httptest.NewRequest("GET", path, nil)
			r.URL.RawQuery = body
		} else {
			r = httptest.NewRequest("POST", path, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		rec := httptest.NewRecorder()
		w.head.ServeHTTP(rec, r)
		if rec.Code >= 500 {
			t.Errorf("%s %q: %d %s", path, body, rec.Code, rec.Body)
		}
		if l := rec.Header().Get("Location"); l != "" && !strings.HasPrefix(l, "http://127.0.0.1") && !strings.HasPrefix(l, "http://[::1]") {
			t.Errorf("%q sends the browser to %q", body, l)
		}
	})
}

func FuzzSealed(f *testing.F) {
	s, err := newSealer(secret.New(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.seal("flow", flow{State: "x"})
	if err != nil {
		f.Fatal(err)
	}
	if s.open("travel", good, &travel{}) {
		f.Error("sealed for one purpose, it opens for another")
	}
	f.Add(good)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		var got flow
		if s.open("flow", text, &got) && (got.State != "x" || got.Client != "") { // every process of the fuzzer seals another good one
			t.Errorf("%q was made up and opens: %+v", text, got)
		}
	})
}
