// Package openidtest is a real OpenID provider inside a test.
package openidtest

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

// What the provider knows its client and its people by.
const (
	ClientID     = "vauban"
	ClientSecret = "the secret of the client"
	Password     = "the password of everybody"
)

// People of the provider, by their subject. Their passwords are Password.
type People map[string]*storage.User

func (p People) GetUserByID(id string) *storage.User { return p[id] }

func (p People) GetUserByUsername(name string) *storage.User {
	for _, u := range p {
		if u.Username == name {
			return u
		}
	}
	return nil
}

func (People) ExampleClientID() string { return "service" }

// IDP is a real OpenID provider: zitadel/oidc's, certified by the OpenID Foundation, on the storage of its example.
type IDP struct {
	*httptest.Server
	redirect string
	People   People
	Broken   atomic.Bool // it answers 503
	// Mangle changes what it answers at a path.
	Mangle atomic.Pointer[func(path string, body []byte) []byte]
}

// Start starts a provider with the client ClientID, which takes codes at redirect. Of its people ada has a verified mail address at
// plant.example, eve one that is not verified, and mal a verified one elsewhere.
func Start(t testing.TB, redirect string) *IDP {
	t.Helper()
	p := &IDP{redirect: redirect, People: People{
		"id-ada": {ID: "id-ada", Username: "ada", Password: Password, Email: "Ada@plant.example", EmailVerified: true},
		"id-eve": {ID: "id-eve", Username: "eve", Password: Password, Email: "eve@plant.example"},
		"id-mal": {ID: "id-mal", Username: "mal", Password: Password, Email: "mal@elsewhere.example", EmailVerified: true},
	}}
	var handler http.Handler
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.Broken.Load() {
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return
		}
		mangle := p.Mangle.Load()
		if mangle == nil {
			handler.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Del("Content-Length")
		w.WriteHeader(rec.Code)
		w.Write((*mangle)(r.URL.Path, rec.Body.Bytes()))
	}))
	t.Cleanup(p.Server.Close)
	client := storage.WebClient(ClientID, ClientSecret, redirect)
	other := storage.WebClient("other", "x", redirect)
	handler = exampleop.SetupServer(p.URL, storage.NewStorageWithClients(p.People, map[string]*storage.Client{ClientID: client, "other": other}), nil, false)
	return p
}

var requestID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// Visit is a browser at the provider, where somebody types a password. It returns where the provider sends the browser back to.
func (p *IDP) Visit(t testing.TB, address, user string) *url.URL {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: p.Client().Transport, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), p.redirect) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := browser.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(res.Body)
	res.Body.Close()
	id := requestID.FindSubmatch(page)
	if id == nil {
		t.Fatalf("the provider shows no form but %s %.300s", res.Status, page)
	}
	res, err = browser.PostForm(p.URL+"/login/username", url.Values{"id": {string(id[1])}, "username": {user}, "password": {Password}})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	back, err := res.Location()
	if err != nil {
		t.Fatalf("the provider sends nobody back: %v", err)
	}
	return back
}
