package sphere

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
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
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/signintest"
	headsignin "github.com/vauban-iot/vauban/head/signin"
	headsphere "github.com/vauban-iot/vauban/head/sphere"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/wire/capability"
)

const (
	administrator = "the-administrators-token"
	mail          = "ada@plant.example"
	password      = "correct horse battery"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func refused(t testing.TB, what string, err error, status int, code string) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != status || e.Code != code || e.Message == "" || strings.HasPrefix(e.Message, "[") || strings.HasPrefix(e.Message, "{") {
		t.Errorf("%s: error %v, want %d %s", what, err, status, code)
	}
}

// people is sign-in with its pages, at an address that is known later.
func people(t testing.TB, issuer string) (*signin.Service, http.Handler) {
	t.Helper()
	s := signintest.New(t, signin.Config{Issuer: issuer, Logger: slog.New(slog.DiscardHandler)})
	h, err := headsignin.New(headsignin.Config{
		Service: s, Hostname: "vauban.test", Administrator: func(token string) bool { return token == administrator }, Logger: slog.New(slog.DiscardHandler),
	})
	ok(t, err)
	return s, h
}

// world is an installation behind TLS: the real heads over the real services on a real store.
type world struct {
	*sphere.Service
	*httptest.Server
	signIn *SignIn
	cfg    Config
	mu     sync.Mutex
	fail   func(w http.ResponseWriter, r *http.Request) bool // answers in place of the installation
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	ok(t, err)
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: sealer})
	ok(t, err)
	t.Cleanup(func() { store.Close() })
	w := &world{}
	w.Service, err = sphere.New(t.Context(), sphere.Config{Store: store, Installation: "vauban.test", Logger: slog.New(slog.DiscardHandler)})
	ok(t, err)
	var api, pages http.Handler
	w.Server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		fail := w.fail
		w.mu.Unlock()
		switch {
		case fail != nil && fail(rw, r):
		case headsignin.Owns(r.URL.Path):
			pages.ServeHTTP(rw, r)
		default:
			api.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(w.Close)
	service, pages := people(t, w.URL)
	api, err = headsphere.New(headsphere.Config{
		Service: w.Service, SignIn: service, Key: secret.Random(32), Administrator: func(token string) bool { return token == administrator }, Logger: slog.New(slog.DiscardHandler),
	})
	ok(t, err)
	w.cfg = Config{URL: w.URL, TLS: &tls.Config{RootCAs: w.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}}
	w.signIn = must(NewSignIn(w.cfg))(t)
	t.Cleanup(func() { w.signIn.Close() })
	return w
}

func (w *world) client(t *testing.T, tokens TokenSource) *Client {
	t.Helper()
	cfg := w.cfg
	cfg.Tokens = tokens
	c := must(New(cfg))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) failing(f func(http.ResponseWriter, *http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = f
}

var hidden = regexp.MustCompile(`name="flow" value="([^"]+)"`)

// person is somebody at a browser.
type person struct {
	t    testing.TB
	http *http.Client
}

func newPerson(t testing.TB, through http.RoundTripper) person {
	t.Helper()
	jar := must(cookiejar.New(nil))(t)
	return person{t, &http.Client{Transport: through, Jar: jar}}
}

// open gets a page, or sends a form to one.
func (p person) open(address string, form url.Values) string {
	p.t.Helper()
	var res *http.Response
	var err error
	if form == nil {
		res, err = p.http.Get(address)
	} else {
		res, err = p.http.PostForm(address, form)
	}
	ok(p.t, err)
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body))(p.t))
}

func (p person) flow(page string) string {
	p.t.Helper()
	m := hidden.FindStringSubmatch(page)
	if m == nil {
		p.t.Fatalf("no form: %s", page)
	}
	return html.UnescapeString(m[1])
}

// file keeps tokens as programs on one machine do.
type file struct {
	mu sync.Mutex
	t  Tokens
}

func (f *file) Update(_ context.Context, change func(Tokens) (Tokens, error)) (Tokens, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := change(f.t)
	if err != nil {
		return Tokens{}, err
	}
	f.t = t
	return t, nil
}

// From an invitation to a call, by way of the browser; then renewal, and the end.
func TestSignIn_Browser(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	_, err := w.signIn.Register(ctx, "", mail, password, "")
	refused(t, "without an invitation", err, 403, "registration_not_allowed")
	invitation := must(w.signIn.Invite(ctx, administrator, mail, "", 0))(t)
	_, err = w.signIn.Invite(ctx, "no token", mail, "", 0)
	refused(t, "an invitation by somebody", err, 401, "invalid_token")
	if a := must(w.signIn.Register(ctx, "", mail, password, invitation))(t); a.Mail != mail || a.UserID == "" {
		t.Errorf("%+v", a)
	}
	signIn := func() (Tokens, error) {
		p := newPerson(t, w.Client().Transport)
		return w.signIn.Browser(ctx, func(address string) error {
			if page := p.open(strings.Replace(must(url.Parse(address))(t).Query().Get("redirect_uri"), "/", "/", 1)+"?code=x&state=guessed", nil); page != "" {
				t.Errorf("an answer to another request is taken: %s", page)
			}
			page := p.open(address, nil)
			page = p.open(w.URL+"/signin/continue", url.Values{"flow": {p.flow(page)}, "mail": {mail}, "password": {password}})
			if !strings.Contains(page, "You are signed in") {
				t.Errorf("the page says %s", page)
			}
			return nil
		})
	}
	tokens := must(signIn())(t)
	if tokens.Access == "" || tokens.Refresh == "" || !tokens.Expires.After(time.Now()) {
		t.Fatal("no tokens")
	}
	for _, s := range []string{fmt.Sprint(tokens), fmt.Sprintf("%+v %#v", tokens, tokens), fmt.Sprintf("%v %#v", Token("secret"), Token("secret"))} {
		if strings.Contains(s, tokens.Access) || strings.Contains(s, tokens.Refresh) || strings.Contains(s, "secret") {
			t.Errorf("tokens print as %s", s)
		}
	}
	var kept Tokens
	ok(t, json.Unmarshal(must(json.Marshal(tokens))(t), &kept))
	if kept.Access != tokens.Access || !kept.Expires.Equal(tokens.Expires) {
		t.Error("tokens do not survive being kept")
	}
	if a := must(w.signIn.Account(ctx, tokens.Access))(t); a.Mail != mail || !a.Local || a.Disabled {
		t.Errorf("%+v", a)
	}

	f := &file{t: tokens}
	c := w.client(t, NewSession(w.signIn, f))
	if me := must(c.Me(ctx))(t); me.UserID != mail || me.Administrator || f.t != tokens {
		t.Errorf("%+v", me)
	}
	f.t.Expires = time.Now().Add(early / 2) // it is about to end: it is renewed before it is used, once, whoever asks
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.Me(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if f.t.Refresh == tokens.Refresh {
		t.Error("nothing was renewed")
	}
	f.t.Access = "one that the service does not take"
	must(c.Me(ctx))(t)

	refused(t, "a wrong password", w.signIn.ChangePassword(ctx, f.t.Access, password+"?", password+"!"), 403, "invalid_credentials")
	ok(t, w.signIn.Logout(ctx, f.t.Refresh))
	if _, err := c.Me(ctx); !errors.Is(err, ErrSignedOut) {
		t.Errorf("after the end: %v", err)
	}
	f.t = Tokens{}
	if _, err := c.Me(ctx); !errors.Is(err, ErrSignedOut) {
		t.Errorf("without tokens: %v", err)
	}

	// A new password ends what the old one began.
	f.t = must(signIn())(t)
	ok(t, w.signIn.ChangePassword(ctx, f.t.Access, password, password+"!"))
	if _, err := c.Me(ctx); !errors.Is(err, ErrSignedOut) {
		t.Errorf("after a new password: %v", err)
	}

	// The person declines, or never comes.
	p := newPerson(t, w.Client().Transport)
	_, err = w.signIn.Browser(ctx, func(address string) error {
		p.open(w.URL+"/signin/continue", url.Values{"flow": {p.flow(p.open(address, nil))}, "decision": {"deny"}})
		return nil
	})
	refused(t, "declined", err, 403, "access_denied")
	over, cancel := context.WithCancel(ctx)
	_, err = w.signIn.Browser(over, func(string) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err = w.signIn.Browser(ctx, func(string) error { return io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no browser: %v", err)
	}
}

// direct sends requests to a handler without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r = r.Clone(r.Context())
	r.RemoteAddr, r.RequestURI = "192.0.2.1:1000", r.URL.RequestURI()
	rec := httptest.NewRecorder()
	d.ServeHTTP(rec, r)
	res := rec.Result()
	res.Request = r
	return res, nil
}

// With a browser elsewhere: the program polls as often as it may, until the person decides or the code ends.
func TestSignIn_DeviceCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const at = "https://vauban.test"
		service, pages := people(t, at)
		must(service.Register(t.Context(), signin.Peer{Administrator: true}, signin.NewUser{Mail: mail, Password: secret.New([]byte(password))}))(t)
		s := must(NewSignIn(Config{URL: at}))(t)
		s.http.Transport = direct{pages}
		decide := func(code, decision string) {
			p := newPerson(t, direct{pages})
			page := p.open(at+"/signin/device", url.Values{"user_code": {code}})
			page = p.open(at+"/signin/continue", url.Values{"flow": {p.flow(page)}, "mail": {mail}, "password": {password}})
			p.open(at+"/signin/confirm", url.Values{"flow": {p.flow(page)}, "decision": {decision}})
		}
		for decision, want := range map[string]string{"allow": "", "deny": "access_denied", "": "expired_token"} {
			tokens, err := s.DeviceCode(t.Context(), func(d DeviceCode) error {
				if d.UserCode == "" || d.VerificationURL != at+"/signin/device" || !strings.Contains(d.CompleteURL, d.UserCode) || time.Until(d.Expires) != signin.DeviceLife {
					t.Errorf("%+v", d)
				}
				if decision != "" {
					go func() {
						time.Sleep(42 * time.Second)
						decide(d.UserCode, decision)
					}()
				}
				return nil
			})
			if want != "" {
				refused(t, decision, err, 400, want)
				continue
			}
			ok(t, err)
			if a := must(s.Account(t.Context(), tokens.Access))(t); a.Mail != mail {
				t.Errorf("%+v", a)
			}
			fresh := must(s.Refresh(t.Context(), tokens.Refresh))(t)
			_, err = s.Refresh(t.Context(), tokens.Refresh)
			refused(t, "a refresh token for the second time", err, 400, "invalid_grant")
			_, err = NewSession(s, &file{t: Tokens{Refresh: fresh.Refresh}}).Token(t.Context(), "")
			if !errors.Is(err, ErrSignedOut) {
				t.Errorf("of a session that ended: %v", err)
			}
		}
	})
}

// Every call, from an empty installation on.
func TestClient(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	c := w.client(t, Token(administrator))
	tn := must(c.CreateTenant(ctx, "Contoso"))(t)
	if got := must(c.Tenant(ctx, tn.ID))(t); got != tn || got.Name != "Contoso" || got.CreatedUTC.IsZero() {
		t.Errorf("%+v, %+v", got, tn)
	}
	tn = must(c.RenameTenant(ctx, tn.ID, "Contoso-2"))(t)
	if all := must(c.Tenants(ctx))(t); len(all) != 1 || all[0].Name != "Contoso-2" {
		t.Errorf("%+v", all)
	}
	if me := must(c.Me(ctx))(t); !me.Administrator || len(me.Roles) != 1 || me.Roles[0].TenantName != "Contoso-2" || me.Roles[0].RoleNames[0] != Administrator {
		t.Errorf("%+v", me)
	}
	if names := must(c.RoleNames(ctx))(t); !reflect.DeepEqual(names, []Role{Administrator, Contributor, Reader}) {
		t.Errorf("%v", names)
	}
	must(c.AddRole(ctx, tn.ID, mail, Reader))(t)
	if rs := must(c.AddRole(ctx, tn.ID, mail, Contributor))(t); !reflect.DeepEqual(rs, []Role{Contributor, Reader}) {
		t.Errorf("%v", rs)
	}
	ok(t, c.RemoveRole(ctx, tn.ID, mail, Reader))
	if rs := must(c.Roles(ctx, tn.ID, mail))(t); !reflect.DeepEqual(rs, []Role{Contributor}) {
		t.Errorf("%v", rs)
	}
	if us := must(c.Users(ctx, tn.ID))(t); len(us) != 2 || us[0].UserID != mail || us[0].AddedUTC.IsZero() {
		t.Errorf("%+v", us)
	}
	refused(t, "the last Administrator", c.RemoveRole(ctx, tn.ID, "operator", Administrator), 409, "Conflict")

	p := must(c.CreateProduct(ctx, tn.ID, ProductChange{Name: ptr("Lamp"), Description: ptr("d")}))(t)
	p = must(c.UpdateProduct(ctx, tn.ID, p.ID, ProductChange{Description: ptr("e")}))(t)
	if got := must(c.Product(ctx, tn.ID, p.ID))(t); got != p || got.Name != "Lamp" || got.Description != "e" || got.TenantID != tn.ID {
		t.Errorf("%+v", got)
	}
	if gs := must(c.CreateDefaultDeviceGroups(ctx, tn.ID, p.ID))(t); len(gs) != 5 || gs[0].UpdatePolicy != No3rdPartyAppUpdates {
		t.Errorf("%+v", gs)
	}
	g := must(c.CreateDeviceGroup(ctx, tn.ID, p.ID, DeviceGroupChange{Name: ptr("Own"), OSFeed: ptr(RetailEval)}))(t)
	g = must(c.UpdateDeviceGroup(ctx, tn.ID, g.ID, DeviceGroupChange{AllowCrashDumpsCollection: ptr(true), RegionalDataBoundary: ptr(RegionEU)}))(t)
	if got := must(c.DeviceGroup(ctx, tn.ID, g.ID))(t); !reflect.DeepEqual(got, g) || got.CurrentDeployment.ID != "" || got.ProductID != p.ID || got.OSFeed != RetailEval || !got.AllowCrashDumpsCollection || got.RegionalDataBoundary != RegionEU {
		t.Errorf("%+v", got)
	}
	if a, b := must(c.DeviceGroups(ctx, tn.ID, p.ID))(t), must(c.DeviceGroups(ctx, tn.ID, ""))(t); len(a) != 6 || len(b) != 6 {
		t.Errorf("%d and %d groups", len(a), len(b))
	}
	_, err := c.CreateProduct(ctx, tn.ID, ProductChange{Name: ptr("lamp")})
	refused(t, "a name that is taken", err, 409, "Conflict")
	for i := range 1005 { // more than a page
		must(w.CreateProduct(ctx, sphere.Caller{Subject: mail}, tn.ID, fmt.Sprintf("P%d", i), ""))(t)
	}
	if all := must(c.Products(ctx, tn.ID))(t); len(all) != 1006 {
		t.Errorf("%d products", len(all))
	}

	// A device that is here, and one that is known.
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.MarshalPKIXPublicKey(key.Public()))(t)
	challenge, life, err := c.ClaimChallenge(ctx, tn.ID)
	ok(t, err)
	if life != claim.Life {
		t.Errorf("%v", life)
	}
	d, claimed, err := c.Claim(ctx, tn.ID, Proof{Challenge: challenge, PublicKey: der, Signature: must(claim.Sign(key, challenge))(t), ChipSKU: "MT3620AN", ManufacturingState: StateBlank, DeviceGroupID: g.ID})
	ok(t, err)
	if !claimed || d.DeviceGroupID != g.ID || d.ProductID != p.ID || d.ManufacturingState != StateBlank || !d.Enabled || d.ClaimedUTC == nil || d.LastUpdateCheckUTC != nil {
		t.Errorf("%v %+v", claimed, d)
	}
	known := must(x509.MarshalPKIXPublicKey(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t).Public()))(t)
	up := must(c.UploadManufactureRecords(ctx, tn.ID, []ManufactureRecord{{PublicKey: known, ChipSKU: "X"}, {PublicKey: []byte("x")}}))(t)
	if up[0].Error != nil || up[1].Error == nil || up[1].Error.ErrorCode != "InvalidArgument" {
		t.Errorf("%+v", up)
	}
	if rs := must(c.ManufactureRecords(ctx, tn.ID))(t); len(rs) != 1 || !bytes.Equal(rs[0].PublicKey, known) || !rs[0].Reserved || rs[0].UploadedBy != "operator" {
		t.Errorf("%+v", rs)
	}
	os := must(c.ClaimKnown(ctx, tn.ID, []string{up[0].DeviceID, strings.Repeat("0", 128)}, ""))(t)
	for _, o := range os {
		if known := o.DeviceID == up[0].DeviceID; o.Claimed != known || (o.Error == nil) != known {
			t.Errorf("%+v", o)
		}
	}
	if n := must(c.CountDevices(ctx, tn.ID, DeviceFilter{}))(t); n != 2 {
		t.Errorf("%d devices", n)
	}
	for name, f := range map[string]DeviceFilter{
		"group": {Group: g.ID}, "product": {Product: p.ID}, "SKU": {ChipSKU: "MT3620AN"}, "state": {State: ptr(StateBlank)},
	} {
		if ds := must(c.Devices(ctx, tn.ID, f))(t); len(ds) != 1 || ds[0].DeviceID != d.DeviceID {
			t.Errorf("by %s: %+v", name, ds)
		}
	}
	if ds := must(c.Devices(ctx, tn.ID, DeviceFilter{Unassigned: true, Enabled: ptr(true)}))(t); len(ds) != 1 || ds[0].DeviceID != up[0].DeviceID {
		t.Errorf("%+v", ds)
	}
	stop := errors.New("stop")
	if err := c.EachDevice(ctx, tn.ID, DeviceFilter{}, func(Device) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if d := must(c.AssignDevice(ctx, tn.ID, d.DeviceID, ""))(t); d.DeviceGroupID != "" {
		t.Errorf("%+v", d)
	}
	must(c.AssignDevice(ctx, tn.ID, d.DeviceID, g.ID))(t)
	if d := must(c.SetManufacturingState(ctx, tn.ID, d.DeviceID, StateDeviceComplete))(t); d.ManufacturingState != StateDeviceComplete {
		t.Errorf("%+v", d)
	}
	if d := must(c.EnableDevice(ctx, tn.ID, d.DeviceID, false))(t); d.Enabled {
		t.Errorf("%+v", d)
	}
	must(c.EnableDevice(ctx, tn.ID, d.DeviceID, true))(t)
	if images := must(c.DeviceImages(ctx, tn.ID, d.DeviceID))(t); len(images) != 0 {
		t.Errorf("%+v", images)
	}
	app := Image{ComponentID: "00000000-0000-4000-8000-000000000007", ImageID: "00000000-0000-4000-9000-000000000007", SHA256: strings.Repeat("ab", 32)}
	must(c.PublishRelease(ctx, tn.ID, Release{Kind: ReleaseApplication, Version: "1", Images: []Image{app}}))(t)
	_, err = c.Deployment(ctx, tn.ID, g.ID, CurrentDeployment)
	refused(t, "before the first", err, 404, "NotFound")
	_, err = c.CreateDeployment(ctx, tn.ID, g.ID, "", []string{g.ID})
	refused(t, "an image that is not released", err, 400, "InvalidArgument")
	if target := must(c.TargetedImages(ctx, tn.ID, d.DeviceID))(t); target.Deployment != nil || len(target.Images) != 0 || target.Reason == "" {
		t.Errorf("%+v", target)
	}
	deployed := must(c.CreateDeployment(ctx, tn.ID, g.ID, "", []string{app.ImageID}))(t)
	if again := must(c.CreateDeployment(ctx, tn.ID, g.ID, deployed.ID, []string{app.ImageID}))(t); !reflect.DeepEqual(again, deployed) || deployed.TenantID != tn.ID || deployed.DeploymentDateUTC == nil {
		t.Errorf("%+v, then %+v", deployed, again)
	}
	must(c.CreateDeployment(ctx, tn.ID, g.ID, "", []string{app.ImageID}))(t)
	if all := must(c.Deployments(ctx, tn.ID, g.ID))(t); len(all) != 2 || !reflect.DeepEqual(all[1], deployed) || !reflect.DeepEqual(all[0], must(c.Deployment(ctx, tn.ID, g.ID, CurrentDeployment))(t)) {
		t.Errorf("%+v", all)
	} else if got := must(c.DeviceGroup(ctx, tn.ID, g.ID))(t); !reflect.DeepEqual(got.CurrentDeployment, all[0]) {
		t.Errorf("%+v", got)
	}
	if target := must(c.TargetedImages(ctx, tn.ID, d.DeviceID))(t); target.Deployment == nil || !reflect.DeepEqual(target.Images, []Image{app}) || target.Reason != "" {
		t.Errorf("%+v", target)
	}
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	f := must(capability.Parse(must(c.DownloadCapability(ctx, tn.ID, d.DeviceID, []CapabilityKind{AppDevelopment}, end))(t)))(t)
	if !f.Has(capability.AppDevelopment) || !f.Expires.Equal(end) {
		t.Errorf("%+v", f)
	}
	must(x509.ParseCertificate(must(c.CapabilitySigner(ctx))(t)))(t)
	if d := must(c.Device(ctx, tn.ID, d.DeviceID))(t); len(d.Capabilities) != 1 || d.Capabilities[0].Capabilities[0] != AppDevelopment || !d.Capabilities[0].ExpiresUTC.Equal(end) {
		t.Errorf("%+v", d)
	}
	refused(t, "a group with devices", c.DeleteDeviceGroup(ctx, tn.ID, g.ID), 409, "Conflict")

	// Its certificates.
	first := must(c.Certificate(ctx, tn.ID, ".default"))(t)
	if !first.IsActive || first.Status != CertificateActive || len(first.Certificate) == 0 {
		t.Errorf("%+v", first)
	}
	if cer := must(c.CertificateContent(ctx, tn.ID, first.Thumbprint))(t); !bytes.Equal(cer, first.Certificate) {
		t.Error("another certificate")
	}
	if p7b := must(c.CertificateChain(ctx, tn.ID, first.SerialNumber))(t); !bytes.Contains(p7b, first.Certificate) {
		t.Error("a chain without the certificate")
	}
	if proof := must(x509.ParseCertificate(must(c.CertificateProof(ctx, tn.ID, ".default", "CODE"))(t)))(t); proof.Subject.CommonName != "CODE" {
		t.Errorf("%v", proof.Subject)
	}
	second := must(c.RotateCertificate(ctx, tn.ID))(t)
	if got := must(c.ActivateCertificate(ctx, tn.ID, second.Thumbprint))(t); !got.IsActive {
		t.Errorf("%+v", got)
	}
	if got := must(c.RevokeCertificate(ctx, tn.ID, first.Thumbprint))(t); !got.IsRevoked || got.Status != CertificateRevoked {
		t.Errorf("%+v", got)
	}
	if all := must(c.Certificates(ctx, tn.ID))(t); len(all) != 2 {
		t.Errorf("%+v", all)
	}

	// What devices run, and told.
	for _, tenant := range []string{"", tn.ID} {
		r := Release{Kind: ReleaseOS, OSFeed: RetailEval, Version: "26.1", Images: []Image{{"00000000-0000-4000-8000-000000000001", "00000000-0000-4000-9000-000000000001", strings.Repeat("ab", 32)}}}
		if r = must(c.PublishRelease(ctx, tenant, r))(t); r.ReleasedUTC == nil || r.TenantID != tenant {
			t.Errorf("%+v", r)
		}
		ok(t, c.WithdrawRelease(ctx, tenant, ReleaseOS, RetailEval, "26.1"))
		if all := slices.DeleteFunc(must(c.Releases(ctx, tenant))(t), func(r Release) bool { return r.Kind == ReleaseApplication }); len(all) != 1 || all[0].WithdrawnUTC == nil || all[0].PublishedBy != "operator" {
			t.Errorf("%+v", all)
		}
		from := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		if m := must(c.SetMinimum(ctx, tenant, Minimum{OSFeed: Retail, Version: "26.1", FromUTC: &from}))(t); !m.FromUTC.Equal(from) {
			t.Errorf("%+v", m)
		}
		if all := must(c.Minimums(ctx, tenant))(t); len(all) != 1 || all[0].Version != "26.1" || all[0].TenantID != tenant {
			t.Errorf("%+v", all)
		}
	}
	ok(t, w.DeviceSide().Report(ctx, d.DeviceID, []report.Event{{Type: report.AppCrash, Description: "it crashed", Start: time.Now()}}))
	if is := must(c.Insights(ctx, tn.ID))(t); len(is) != 1 || is[0].EventType != "AppCrash" || is[0].DeviceID != d.DeviceID || is[0].EndUTC.IsZero() {
		t.Errorf("%+v", is)
	}
	for _, group := range []string{"", g.ID} {
		if csv := string(must(c.ErrorReport(ctx, tn.ID, group, group == ""))(t)); !strings.Contains(csv, "it crashed") || strings.Contains(csv, "Event Category") != (group == "") {
			t.Errorf("%s", csv)
		}
	}
	must(c.AssignDevice(ctx, tn.ID, d.DeviceID, ""))(t)
	ok(t, c.DeleteDeviceGroup(ctx, tn.ID, g.ID))
	ok(t, c.DeleteProduct(ctx, tn.ID, p.ID))
	_, err = c.Product(ctx, tn.ID, p.ID)
	refused(t, "what is gone", err, 404, "NotFound")
	_, err = c.Tenant(ctx, "../../signin/user")
	refused(t, "a path in the place of an id", err, 404, "NotFound")
}

func ptr[T any](v T) *T { return &v }

// What the service cannot do now is asked for again, as far as that is safe.
func TestClient_TriesAgain(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	c := w.client(t, Token(administrator))
	for name, k := range map[string]struct {
		status, times int
		write         bool
		calls         int
		good          bool
	}{
		"busy once":               {429, 1, true, 2, true},
		"a read that failed":      {500, 1, false, 2, true},
		"a write that failed":     {500, 1, true, 1, false},
		"a read that is refused":  {403, 1, false, 1, false},
		"a token that is refused": {401, 1, false, 1, false},
	} {
		calls := 0
		w.failing(func(rw http.ResponseWriter, _ *http.Request) bool {
			if calls++; calls > k.times {
				return false
			}
			rw.Header().Set("Retry-After", "0")
			rw.WriteHeader(k.status)
			fmt.Fprint(rw, `[{"ErrorCode":"X","Title":"T","Details":"D"}]`)
			return true
		})
		var err error
		if k.write {
			_, err = c.CreateTenant(ctx, "Contoso")
		} else {
			_, err = c.Tenants(ctx)
		}
		if (err == nil) != k.good || calls != k.calls {
			t.Errorf("%s: %d calls, %v", name, calls, err)
		}
		if err != nil {
			refused(t, name, err, k.status, "X")
			if e, _ := errors.AsType[*Error](err); e.Temporary() != (k.status == 429 || k.status >= 500) {
				t.Errorf("%s: temporary: %v", name, e.Temporary())
			}
		}
	}
	// A proxy's page, and a redirect that would carry the token away.
	w.failing(func(rw http.ResponseWriter, _ *http.Request) bool {
		http.Redirect(rw, &http.Request{Method: "GET", URL: &url.URL{}}, "https://evil.example/", http.StatusFound)
		return true
	})
	if _, err := c.Tenants(ctx); !IsStatus(err, 302) {
		t.Errorf("%v", err)
	}
	w.failing(func(rw http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprint(rw, "<html>")
		return true
	})
	if _, err := c.Tenants(ctx); err == nil || strings.Contains(err.Error(), "<html>") {
		t.Errorf("%v", err)
	}
	w.failing(nil)
	w.Close()
	if _, err := c.Tenants(ctx); err == nil {
		t.Error("an answer of nobody")
	}
	for _, address := range []string{"", "http://x", "https://", "https://x/path", "https://x?y", "https://u:p@x", "x"} {
		if _, err := New(Config{URL: address}); err == nil {
			t.Errorf("a client of %q", address)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		got  any
		err  error
		want any
	}{
		{"retaileval", must2(ParseOSFeed("retaileval")), nil, RetailEval}, {"", must2(ParseUpdatePolicy("updateall")), nil, UpdateAll},
		{"", must2(ParseRegion("eu")), nil, RegionEU}, {"", must2(ParseManufacturingState("DeviceComplete")), nil, StateDeviceComplete},
		{"", must2(ParseCapabilityKind("APPDEVELOPMENT")), nil, AppDevelopment}, {"", must2(ParseReleaseKind("application")), nil, ReleaseApplication},
	} {
		if c.got != c.want {
			t.Errorf("%v, want %v", c.got, c.want)
		}
		if s := fmt.Sprint(c.want); s == "" || s[0] >= '0' && s[0] <= '9' {
			t.Errorf("%q", s)
		}
	}
	if _, err := ParseOSFeed("Beta"); err == nil {
		t.Error("a feed Beta")
	}
	if s := OSFeed(7).String(); s != "7" {
		t.Errorf("%q", s)
	}
}

func must2[T any](v T, err error) any {
	if err != nil {
		return err
	}
	return v
}
