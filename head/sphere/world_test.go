package sphere

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/storage/sqlite"
)

// start is when tests begin.
var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// admin is the installation's administrator token.
const admin = "the-administrators-token"

// people is a sign-in in which a token is the word "of " and a mail address.
type people struct{ err error }

func (p people) Check(_ context.Context, bearer string) (signin.User, error) {
	if p.err != nil {
		return signin.User{}, p.err
	}
	mail, ok := strings.CutPrefix(bearer, "of-")
	if !ok {
		return signin.User{}, signin.ErrToken
	}
	return signin.User{Subject: "subject of " + mail, Mail: mail}, nil
}

// world is a head over a real Security Service on a real store.
type world struct {
	t testing.TB
	*sphere.Service
	head *Head
	log  *bytes.Buffer
	key  secret.Secret
	now  time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	ok(t, err)
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: sealer})
	ok(t, err)
	t.Cleanup(func() { store.Close() })
	w := &world{t: t, log: new(bytes.Buffer), key: secret.New(bytes.Repeat([]byte{7}, 32)), now: start}
	w.Service, err = sphere.New(context.Background(), sphere.Config{
		Store: store, Installation: "hub.example", Now: w.clock, Logger: slog.New(slog.DiscardHandler),
	})
	ok(t, err)
	w.head = w.another(people{}, w.key)
	return w
}

func (w *world) clock() time.Time { return w.now }

// another is a second head over the same service.
func (w *world) another(s SignIn, key secret.Secret) *Head {
	w.t.Helper()
	h, err := New(Config{
		Service: w.Service, SignIn: s, Key: key, Now: w.clock, Administrator: func(token string) bool { return token == admin },
		Logger: slog.New(slog.NewJSONHandler(w.log, nil)),
	})
	ok(w.t, err)
	return h
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

// root is an administrator of the installation.
var root = sphere.Caller{Subject: operator, Admin: true}

// token is what a caller shows.
func token(c sphere.Caller) string {
	switch {
	case c.Admin:
		return admin
	case c.Subject == "":
		return ""
	}
	return "of-" + c.Subject
}

// answered is an answer.
type answered struct {
	*httptest.ResponseRecorder
	text string // of the body
}

// ask sends a request to a head as somebody.
func (w *world) askAt(h *Head, c sphere.Caller, method, target, body string, change ...func(*http.Request)) answered {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), method, "https://hub.example"+target, strings.NewReader(body))
	if bearer := token(c); bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	for _, do := range change {
		do(r)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return answered{rec, rec.Body.String()}
}

func (w *world) ask(c sphere.Caller, method, target, body string, change ...func(*http.Request)) answered {
	w.t.Helper()
	return w.askAt(w.head, c, method, target, body, change...)
}

// want is ask for a status, and reads the JSON.
func (w *world) want(status int, c sphere.Caller, method, target, body string) map[string]any {
	w.t.Helper()
	a := w.ask(c, method, target, body)
	if a.Code != status {
		w.t.Fatalf("%s %s: %d %s, want %d", method, target, a.Code, a.text, status)
	}
	return a.json(w.t)
}

func (a answered) json(t testing.TB) map[string]any {
	t.Helper()
	m := map[string]any{}
	if a.text == "" {
		return m
	}
	if strings.HasPrefix(a.text, "[") {
		var list []map[string]any
		if err := json.Unmarshal([]byte(a.text), &list); err != nil || len(list) == 0 {
			t.Fatalf("%v: %s", err, a.text)
		}
		return list[0]
	}
	if strings.HasPrefix(a.text, "{") {
		ok(t, json.Unmarshal([]byte(a.text), &m))
	}
	return m
}

// dig follows members by name and list entries by index.
func dig(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// deviceKey is a device's key with what hangs from it.
type deviceKey struct {
	crypto.Signer
	id  string
	der []byte
}

func newKey(t testing.TB) deviceKey {
	t.Helper()
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return deviceKey{k, must(deviceid.Of(k.Public()))(t), must(x509.MarshalPKIXPublicKey(k.Public()))(t)}
}

// estate is a tenant with one of everything.
type estate struct {
	tenant, name                       string
	product, empty, group, spare       string // ids; the product empty has no devices, nor has the group spare
	productName, groupName             string
	device, known                      string // known is reserved and not claimed
	ca, successor, version             string
	deployment                         string // of the group
	app                                string // id of its image
	administrator, contributor, reader sphere.Caller
	emptyName, spareName               string
	key                                deviceKey
}

func (w *world) estate(prefix string) estate {
	t, ctx := w.t, w.t.Context()
	t.Helper()
	e := estate{
		administrator: sphere.Caller{Subject: prefix + "-admin@example.org"}, contributor: sphere.Caller{Subject: prefix + "-contributor@example.org"},
		reader: sphere.Caller{Subject: prefix + "-reader@example.org"}, name: prefix + "-tenant",
		productName: prefix + " product", groupName: prefix + " group", emptyName: prefix + " empty", spareName: prefix + " spare", version: "26.1",
	}
	e.tenant = must(w.CreateTenant(ctx, e.administrator, e.name))(t).ID
	must(w.AddRole(ctx, e.administrator, e.tenant, e.contributor.Subject, sphere.Contributor))(t)
	must(w.AddRole(ctx, e.administrator, e.tenant, e.reader.Subject, sphere.Reader))(t)
	e.product = must(w.CreateProduct(ctx, e.administrator, e.tenant, e.productName, prefix))(t).ID
	e.empty = must(w.CreateProduct(ctx, e.administrator, e.tenant, e.emptyName, ""))(t).ID
	e.group = must(w.CreateDeviceGroup(ctx, e.administrator, e.tenant, e.product, sphere.GroupChange{Name: &e.groupName}))(t).ID
	e.spare = must(w.CreateDeviceGroup(ctx, e.administrator, e.tenant, e.product, sphere.GroupChange{Name: &e.spareName}))(t).ID
	e.key = newKey(t)
	e.device = e.key.id
	_, _, err := w.Claim(ctx, e.administrator, e.tenant, w.proof(e.administrator, e.tenant, e.key), e.group)
	ok(t, err)
	k := newKey(t)
	ok(t, errors.Join(must(w.UploadManufactureRecords(ctx, root, e.tenant, []sphere.ManufactureRecord{{PublicKey: k.der, ChipSKU: prefix + "sku"}}))(t)...))
	e.known = k.id
	must(w.PublishRelease(ctx, e.administrator, e.tenant, sphere.Release{Kind: sphere.ReleaseOS, Feed: sphere.Retail, Version: e.version, Images: []sphere.Image{image}}))(t)
	app := image
	app.Component, app.ID = "00000000-0000-4000-8000-000000000007", fmt.Sprintf("00000000-0000-4000-9000-%x", prefix+prefix)
	must(w.PublishRelease(ctx, e.administrator, e.tenant, sphere.Release{Kind: sphere.ReleaseApplication, Version: "1", Images: []sphere.Image{app}}))(t)
	made, _, err := w.CreateDeployment(ctx, e.administrator, e.tenant, e.group, "", []string{app.ID})
	ok(t, err)
	e.deployment, e.app = made.ID, app.ID
	must(w.SetMinimum(ctx, e.administrator, e.tenant, sphere.Retail, "26.1", time.Time{}))(t)
	ok(t, w.DeviceSide().Report(ctx, e.device, []report.Event{{Type: report.AppCrash, Description: prefix + " crashed", Start: w.now}}))
	e.ca = must(w.CA(ctx, e.administrator, e.tenant, sphere.PseudoDefault))(t).Serial
	w.now = w.now.Add(time.Second) // lists are by when they were made
	e.successor = must(w.RotateCA(ctx, e.administrator, e.tenant))(t).Serial
	w.now = w.now.Add(-time.Second)
	return e
}

var image = sphere.Image{
	Component: "00000000-0000-4000-8000-000000000001", ID: "00000000-0000-4000-9000-000000000001", SHA256: strings.Repeat("ab", 32),
}

func (w *world) proof(c sphere.Caller, tenant string, k deviceKey) sphere.Proof {
	w.t.Helper()
	challenge := must(w.ClaimChallenge(w.t.Context(), c, tenant))(w.t)
	return sphere.Proof{Challenge: challenge, PublicKey: k.der, Signature: must(claim.Sign(k, challenge))(w.t), ChipSKU: "MT3620AN"}
}

// proofBody is what a client sends of a proof.
func (w *world) proofBody(c sphere.Caller, tenant string, k deviceKey, group string) string {
	w.t.Helper()
	p := w.proof(c, tenant, k)
	return string(must(json.Marshal(map[string]any{
		"Challenge": p.Challenge, "PublicKey": p.PublicKey, "Signature": p.Signature, "ChipSku": p.ChipSKU, "DeviceGroupId": group,
	}))(w.t))
}

// snapshot is all that callers see of a tenant.
func (w *world) snapshot(e estate) string {
	w.t.Helper()
	t, ctx, c := w.t, w.t.Context(), e.administrator
	all := sphere.Page{Limit: sphere.MaxPage}
	devices := must(w.Devices(ctx, c, e.tenant, sphere.DeviceFilter{}, all))(t).Items
	for i, d := range devices {
		devices[i] = must(w.Service.Device(ctx, c, e.tenant, d.ID))(t)
	}
	b := must(json.Marshal([]any{
		must(w.Tenant(ctx, c, e.tenant))(t), must(w.Members(ctx, c, e.tenant))(t), must(w.Products(ctx, c, e.tenant, all))(t),
		must(w.DeviceGroups(ctx, c, e.tenant, "", all))(t), devices, must(w.ManufactureRecords(ctx, c, e.tenant, all))(t),
		must(w.Releases(ctx, c, e.tenant))(t), must(w.Minimums(ctx, c, e.tenant))(t), must(w.CAs(ctx, c, e.tenant))(t), must(w.ErrorReport(ctx, c, e.tenant, ""))(t),
		must(w.Deployments(ctx, c, e.tenant, "", all))(t),
	}))(t)
	return string(b)
}

func isFault(t testing.TB, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("error %v, want kind %q", err, k)
	}
}

// reasonable reports whether an HTTP server would hand such a request on.
func reasonable(method, target, query string) bool {
	if method == "" || strings.ContainsFunc(method, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return false
	}
	return strings.HasPrefix(target, "/") && !strings.ContainsFunc(target+query, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// raw sends bytes as they are.
func (w *world) raw(bearer, method, target, query, body string) answered {
	r := &http.Request{
		Method: method, Host: "hub.example", RemoteAddr: "192.0.2.1:1", Header: http.Header{}, URL: &url.URL{Path: target, RawPath: target, RawQuery: query},
		Body: io.NopCloser(strings.NewReader(body)),
	}
	if p, err := url.PathUnescape(target); err == nil {
		r.URL.Path = p
	} else {
		r.URL.RawPath = ""
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	rec := httptest.NewRecorder()
	w.head.ServeHTTP(rec, r)
	return answered{rec, rec.Body.String()}
}
