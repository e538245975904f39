package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/sphere/attest/attesttest"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/capability"
)

// signer signs capability files.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer{cert, key}
}

// file is a capability file for a device, good for a life from now on.
func (s signer) file(t testing.TB, device string, now time.Time, life time.Duration, ids ...capability.ID) []byte {
	t.Helper()
	f := capability.File{Capabilities: ids, Built: now}
	if life != 0 {
		f.Expires = now.Add(life)
	}
	if _, err := hex.Decode(f.DeviceID[:], []byte(device)); err != nil {
		t.Fatal(err)
	}
	b, err := f.Sign(s.cert, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask makes a servicing request. file may be nil.
func ask(a *agent.Agent, method, path, body string, file []byte) (int, string) {
	r := httptest.NewRequest(method, "http://device"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if file != nil {
		r.Header.Set(capability.Header, capability.EncodeHeader(file))
	}
	w := httptest.NewRecorder()
	a.Servicing().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func want(t testing.TB, what string, status int, body string, wantStatus int, wantBody string) {
	t.Helper()
	if status != wantStatus || wantBody != "" && body != wantBody {
		t.Errorf("%s: got %d %s, want %d %s", what, status, body, wantStatus, wantBody)
	}
}

var (
	publicPaths = []string{"/abi_versions", "/osversion", "/status", "/net/status", "/device/capabilities", "/device/security_state",
		"/device/manufacturing_state", "/device/identity"}
	lockedPaths = []string{"/images", "/telemetry"}
)

const (
	locked   = `{"error":6}`
	badToken = `{"error":7}`
)

// States go one way; at the last, only what is public answers without a capability.
func TestServicing_ManufacturingState(t *testing.T) {
	conform.Covers(t, "SPH-23")
	s := newSigner(t)
	dir := t.TempDir()
	cfg := config(newLink(t, attesttest.New(t)), dir)
	cfg.Signers = []*x509.Certificate{s.cert}
	a := open(t, cfg)
	put := func(state string, file []byte) (int, string) {
		return ask(a, "PUT", "/device/manufacturing_state", `{"manufacturingState":"`+state+`"}`, file)
	}
	is := func(state string) {
		t.Helper()
		status, body := ask(a, "GET", "/device/manufacturing_state", "", nil)
		want(t, "the state", status, body, 200, `{"manufacturingState":"`+state+`"}`)
	}
	allOpen := func(file []byte) {
		t.Helper()
		for _, p := range append(publicPaths, lockedPaths...) {
			status, body := ask(a, "GET", p, "", file)
			want(t, p, status, body, 200, "")
		}
	}
	is("Blank")
	allOpen(nil)
	for _, bad := range []string{"Blank", "Unknown", "", "devicecomplete"} {
		status, body := put(bad, nil)
		want(t, "set "+bad, status, body, 400, `{"error":1}`)
	}
	status, body := put("Module1Complete", nil)
	want(t, "set Module1Complete", status, body, 200, "{}")
	status, body = put("Module1Complete", nil)
	want(t, "the same again", status, body, 200, "{}")
	is("Module1Complete")
	allOpen(nil)
	status, body = put("DeviceComplete", nil)
	want(t, "set DeviceComplete", status, body, 200, "{}")

	for range 2 { // now, and after a restart
		is("DeviceComplete")
		for _, p := range publicPaths {
			status, body := ask(a, "GET", p, "", nil)
			want(t, p, status, body, 200, "")
		}
		for _, p := range lockedPaths {
			status, body := ask(a, "GET", p, "", nil)
			want(t, p, status, body, 403, locked)
		}
		status, body = ask(a, "DELETE", "/telemetry", "", nil)
		want(t, "DELETE", status, body, 403, locked)
		for _, state := range []string{"DeviceComplete", "Module1Complete"} {
			status, body = put(state, nil)
			want(t, "set "+state, status, body, 403, locked)
		}
		a = open(t, cfg)
	}
	file := s.file(t, a.ID(), time.Now(), time.Hour, capability.FieldServicing)
	allOpen(file)
	status, body = put("Module1Complete", file)
	want(t, "back, with a capability", status, body, 400, `{"error":8}`)
	is("DeviceComplete")
}

// A capability counts on its device, from its signer, in its time; and shows in the inventory.
func TestServicing_Capabilities(t *testing.T) {
	conform.Covers(t, "SPH-22")
	synctest.Test(t, func(t *testing.T) {
		w := attesttest.New(t)
		l := newLink(t, w)
		s, stranger := newSigner(t), newSigner(t)
		cfg := config(l, t.TempDir())
		cfg.Signers = []*x509.Certificate{s.cert}
		a := open(t, cfg)
		other := open(t, func() agent.Config { c := config(l, t.TempDir()); c.Signers = cfg.Signers; return c }())
		claimed(t, w, a)
		for _, d := range []*agent.Agent{a, other} {
			status, body := ask(d, "PUT", "/device/manufacturing_state", `{"manufacturingState":"DeviceComplete"}`, nil)
			want(t, "complete", status, body, 200, "")
		}
		now := time.Now()
		good := s.file(t, a.ID(), now, time.Hour, capability.FieldServicing)
		broken := append([]byte(nil), good...)
		broken[100] ^= 1
		for _, test := range []struct {
			name string
			d    *agent.Agent
			file []byte
			body string
		}{
			{"good", a, good, ""},
			{"the same again", a, good, ""},
			{"on another device", other, good, badToken},
			{"of a signer nobody trusts", a, stranger.file(t, a.ID(), now, time.Hour, capability.FieldServicing), badToken},
			{"for development", a, s.file(t, a.ID(), now, time.Hour, capability.AppDevelopment), locked},
			{"without end", a, s.file(t, a.ID(), now, 0, capability.FieldServicing), badToken},
			{"expired", a, s.file(t, a.ID(), now.Add(-2*time.Hour), time.Hour, capability.FieldServicing), badToken},
			{"from the future", a, s.file(t, a.ID(), now.Add(time.Hour), time.Hour, capability.FieldServicing), badToken},
			{"broken", a, broken, badToken},
			{"cut", a, good[:200], badToken},
			{"long", a, append(good, make([]byte, 8000)...), badToken},
		} {
			status := 403
			if test.body == "" {
				status = 200
			}
			gotStatus, got := ask(test.d, "GET", "/images", "", test.file)
			want(t, test.name, gotStatus, got, status, test.body)
			// What is public needs none, so a bad one does no harm there.
			gotStatus, got = ask(test.d, "GET", "/status", "", test.file)
			want(t, test.name, gotStatus, got, 200, "")
		}
		status, body := ask(a, "GET", "/device/capabilities", "", good)
		want(t, "of the session", status, body, 200, `{"device_capabilities":[13]}`)
		status, body = ask(a, "GET", "/device/capabilities", "", nil)
		want(t, "of nobody", status, body, 200, `{"device_capabilities":[]}`)

		// Installed it counts until it expires, and the service hears of it.
		for name, bad := range map[string][]byte{"another's": s.file(t, other.ID(), now, time.Hour, 11), "a stranger's": stranger.file(t, a.ID(), now, time.Hour, 11), "no file": {1}} {
			if err := a.InstallCapability(bad); err == nil {
				t.Errorf("%s is installed", name)
			}
		}
		if err := a.InstallCapability(s.file(t, a.ID(), now, 2*time.Hour, capability.AppDevelopment)); err != nil {
			t.Fatal(err)
		}
		attested(t, a)
		if r, err := w.Attestation(t.Context(), a.ID()); err != nil || len(r.Capabilities) != 1 || r.Capabilities[0] != 11 || r.State != "DeviceComplete" {
			t.Errorf("the inventory sees %+v, %v", r, err)
		}
		a = open(t, cfg)
		status, body = ask(a, "GET", "/device/capabilities", "", good)
		want(t, "both, after a restart", status, body, 200, `{"device_capabilities":[11,13]}`)

		time.Sleep(time.Hour)
		status, body = ask(a, "GET", "/images", "", good)
		want(t, "an hour later", status, body, 403, badToken)
		time.Sleep(time.Hour)
		attested(t, a)
		if r, err := w.Attestation(t.Context(), a.ID()); err != nil || len(r.Capabilities) != 0 {
			t.Errorf("the inventory sees %+v, %v", r, err)
		}

		// The service's time is days ahead of this machine's clock, which starts again from where it was: a file that ended stays so.
		w.SetAhead(72 * time.Hour)
		late := s.file(t, a.ID(), time.Now(), 24*time.Hour, capability.FieldServicing)
		status, body = ask(a, "GET", "/images", "", late)
		want(t, "before the device knows better", status, body, 200, "")
		attested(t, a)
		a = open(t, cfg)
		status, body = ask(a, "GET", "/images", "", late)
		want(t, "with a clock that was set back", status, body, 403, badToken)
		if err := a.InstallCapability(nil); err != nil {
			t.Error(err)
		}
	})
}

func TestServicing_Answers(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	cfg := config(l, t.TempDir())
	cfg.ABI = agent.ABI{SecureWorldRuntime: 2, OSRuntime: 3, ApplicationRuntime: 12}
	a := open(t, cfg)
	claimed(t, w, a)
	if err := a.Report(attestation.Event{Type: "AppCrash", Description: "d", Start: time.Unix(0, 0).UTC()}); err != nil {
		t.Fatal(err)
	}
	key, err := json.Marshal(a.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ method, path, body string }{
		{"GET", "/abi_versions", `{"SecureWorldRuntime":2,"OSRuntime":3,"ApplicationRuntime":12}`},
		{"GET", "/osversion", `{"osversion":"26.11"}`},
		{"GET", "/status", `{"uptime":0}`},
		{"GET", "/net/status", `{"deviceAuthenticationIsReady":false,"networkTimeSync":"incomplete","proxy":"disabled"}`},
		{"GET", "/device/security_state", fmt.Sprintf(`{"deviceIdentifier":"%s","deviceIdentityPublicKey":%s,"securityState":"TEST"}`, a.ID(), key)},
		{"GET", "/device/identity", fmt.Sprintf(`{"deviceId":"%s","publicKey":%s,"hardwareRoot":false}`, a.ID(), key)},
		{"GET", "/images", `{"components":[{"uid":"00000000-0000-0000-0000-000000000001","image_type":7,"name":"kernel","is_update_staged":false,` +
			`"does_image_type_require_restart":true,"images":[{"uid":"00000000-0000-0000-0000-0000000000a1","length_in_bytes":4096,` +
			`"uncompressed_length_in_bytes":4096,"replica_type":0}]}],"has_staged_updates":false,"is_ota_update_in_progress":false,"restart_required":false}`},
		{"GET", "/telemetry", `{"version":1,"events":[{"type":"AppCrash","class":"","description":"d","count":1,"startTimeUtc":"1970-01-01T00:00:00Z","endTimeUtc":"1970-01-01T00:00:00Z"}]}`},
		{"DELETE", "/telemetry", `{}`},
		{"GET", "/telemetry", `{"version":1,"events":null}`},
	} {
		status, body := ask(a, test.method, test.path, "", nil)
		want(t, test.method+" "+test.path, status, body, 200, test.body)
	}
	attested(t, a)
	status, body := ask(a, "GET", "/net/status", "", nil)
	want(t, "net/status", status, body, 200, `{"deviceAuthenticationIsReady":true,"networkTimeSync":"complete","proxy":"disabled"}`)

	for _, test := range []struct {
		name, method, path, contentType, body, origin string
		status, code                                  int
	}{
		{"no such path", "GET", "/nothing", "", "", "", 404, 2},
		{"a path of the original's that is not there", "PUT", "/update/stage", "", "", "", 404, 2},
		{"another method", "POST", "/status", "", "", "", 405, 3},
		{"no content type", "PUT", "/device/manufacturing_state", "", "{}", "", 415, 4},
		{"text", "PUT", "/device/manufacturing_state", "text/plain", "{}", "", 415, 4},
		{"no JSON", "PUT", "/device/manufacturing_state", "application/json", "{", "", 400, 1},
		{"too much", "PUT", "/device/manufacturing_state", "application/json", `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, "", 413, 5},
		{"a page in a browser", "GET", "/status", "", "", "https://evil.test", 403, 9},
		{"no challenge", "POST", "/device/claim-proof", "application/json", "{}", "", 400, 1},
		{"a challenge that is text of something else", "POST", "/device/claim-proof", "application/json", `{"challenge":"Vauban attestation 1\u0000"}`, "", 400, 1},
		{"a long challenge", "POST", "/device/claim-proof", "application/json", `{"challenge":"` + strings.Repeat("A", 600) + `"}`, "", 400, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(test.method, "http://device"+test.path, strings.NewReader(test.body))
			r.Header.Set("Content-Type", test.contentType)
			if test.origin != "" {
				r.Header.Set("Origin", test.origin)
			}
			w := httptest.NewRecorder()
			a.Servicing().ServeHTTP(w, r)
			want(t, test.name, w.Code, w.Body.String(), test.status, fmt.Sprintf(`{"error":%d}`, test.code))
			if w.Header().Get("REST-API-Version") != agent.ServicingVersion {
				t.Error("the version of the API is missing")
			}
		})
	}
}

// What the device signs for a claim is a claim, and no evidence of an attestation; and the other way round. A complete device can still be claimed.
func TestServicing_ClaimProof(t *testing.T) {
	a := open(t, config(newLink(t, attesttest.New(t)), t.TempDir()))
	ask(a, "PUT", "/device/manufacturing_state", `{"manufacturingState":"DeviceComplete"}`, nil)
	const challenge = "AbC-_9"
	status, body := ask(a, "POST", "/device/claim-proof", `{"challenge":"`+challenge+`"}`, nil)
	want(t, "claim-proof", status, body, 200, "")
	var proof struct {
		ID        string `json:"deviceId"`
		Key       []byte `json:"publicKey"`
		Signature []byte `json:"signature"`
	}
	if err := json.Unmarshal([]byte(body), &proof); err != nil {
		t.Fatal(err)
	}
	public, id, err := deviceid.ParseKey(proof.Key)
	if err != nil || id != a.ID() || proof.ID != id {
		t.Fatalf("the key is that of %s: %v", id, err)
	}
	if err := claim.Verify(public, challenge, proof.Signature); err != nil {
		t.Error(err)
	}
	if err := claim.VerifyVoucher(public, challenge, proof.Signature); err == nil {
		t.Error("a proof passes for a voucher")
	}
	for _, role := range []string{attestation.RoleDevice, attestation.RoleClient, attestation.RoleUpdate} {
		if err := attestation.Verify(public.(*ecdsa.PublicKey), role, []byte(challenge), proof.Signature); err == nil {
			t.Errorf("a claim passes for evidence of the %s key", role)
		}
	}
}

func TestListenServicing(t *testing.T) {
	for _, bad := range []string{"0.0.0.0:0", "192.0.2.1:80", "[::]:0", "localhost:0", ":0", "127.0.0.1", ""} {
		if ln, err := agent.ListenServicing(bad); err == nil {
			ln.Close()
			t.Errorf("%q is served", bad)
		}
	}
	a := open(t, config(newLink(t, attesttest.New(t)), t.TempDir()))
	dir, err := os.MkdirTemp("", "sv") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	for _, address := range []string{"unix:" + path, "127.0.0.1:0"} {
		ln, err := agent.ListenServicing(address)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.ServeServicing(ctx, ln) }()
		client := &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, ln.Addr().Network(), ln.Addr().String())
			},
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}}
		url := "http://device/status"
		if ln.Addr().Network() == "unix" {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the socket has mode %v, %v", info.Mode(), err)
			}
			if _, err := agent.ListenServicing(address); err == nil {
				t.Error("a socket that is served is taken away")
			}
		} else {
			url = "https://device/status"
		}
		res, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("%s answers %d", address, res.StatusCode)
		}
		client.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func FuzzServicing(f *testing.F) {
	s := newSigner(f)
	cfg := config(newLink(f, attesttest.New(f)), f.TempDir())
	cfg.Signers = []*x509.Certificate{s.cert}
	a := open(f, cfg)
	ask(a, "PUT", "/device/manufacturing_state", `{"manufacturingState":"DeviceComplete"}`, nil)
	good := s.file(f, a.ID(), time.Now(), time.Hour, capability.FieldServicing)
	f.Add("/images", "", capability.EncodeHeader(good[:300]))
	f.Add("/device/claim-proof", `{"challenge":"a"}`, "")
	f.Fuzz(func(t *testing.T, path, body, header string) {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
			r := httptest.NewRequest(method, "http://device/", strings.NewReader(body))
			r.URL.Path = path
			r.Header.Set("Content-Type", "application/json")
			r.Header[http.CanonicalHeaderKey(capability.Header)] = []string{header}
			w := httptest.NewRecorder()
			a.Servicing().ServeHTTP(w, r)
			if w.Code == 500 {
				t.Fatalf("%s %q: %s", method, path, w.Body)
			}
			if w.Code == 200 && (path == "/images" || path == "/telemetry" || method == "PUT") && header != capability.EncodeHeader(good) {
				t.Fatalf("%s %s is open", method, path)
			}
		}
	})
}
