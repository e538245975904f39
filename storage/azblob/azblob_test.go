package azblob_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	headblob "github.com/vauban-iot/vauban/head/blob"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/azblob"
	"github.com/vauban-iot/vauban/storage/blob"
	"github.com/vauban-iot/vauban/wire/blobsas"
)

type nobody struct{}

func (nobody) Authorize(string, access.Right, ...string) error {
	return fault.New(fault.Unauthorized, "no policy")
}

// endpoint is this server's own endpoint for blobs, over TLS on loopback.
type endpoint struct {
	*httptest.Server
	key   secret.Secret
	roots *x509.CertPool
}

func open(t *testing.T) *endpoint {
	t.Helper()
	store, err := blob.Open(blob.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{key: secret.Random(32), roots: x509.NewCertPool()}
	head, err := headblob.New(headblob.Config{Container: "uploads", Whole: []string{"files"}, Key: e.key, Store: store, Guard: nobody{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e.Server = httptest.NewTLSServer(head)
	t.Cleanup(e.Close)
	e.roots.AddCert(e.Certificate())
	return e
}

func (e *endpoint) uri(host, permissions string) string {
	return "https://" + host + "/files?" + blobsas.Grant{Container: "files", Permissions: permissions, Expiry: time.Now().Add(time.Hour)}.Sign(e.key.Reveal())
}

func (e *endpoint) address() string { return e.Listener.Addr().String() }

func (e *endpoint) client(t *testing.T, hosts ...string) *azblob.Client {
	t.Helper()
	c, err := azblob.New(azblob.Config{
		Hosts: hosts, TLS: &tls.Config{RootCAs: e.roots, ServerName: "example.com"},
		Own: &azblob.Own{
			Host: "hub.test", Address: e.address(), TLS: &tls.Config{RootCAs: e.roots, ServerName: "example.com"},
			Grant: func(container string) (string, bool) {
				_, query, _ := strings.Cut(e.uri("", "rw"), "?")
				return query, container == "files"
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func put(t *testing.T, c transfer.Container, name string, data []byte) error {
	t.Helper()
	u, err := c.Put(t.Context(), name)
	if err != nil {
		return err
	}
	for part := range bytes.SplitAfterSeq(data, []byte("\n")) {
		if _, err := u.Write(part); err != nil {
			return err
		}
	}
	return u.Commit()
}

func get(t *testing.T, c transfer.Container, name string) ([]byte, error) {
	t.Helper()
	r, _, err := c.Get(t.Context(), name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Files go to this hub's endpoint and come back, whatever they are called: small ones whole, large ones in blocks.
func TestContainer(t *testing.T) {
	t.Parallel()
	e := open(t)
	cl := e.client(t)
	large := bytes.Repeat([]byte("0123456789abcdef\n"), 600_000) // over two blocks
	for what, uri := range map[string]string{
		"the hub's own": e.uri("hub.test", "rw"), "its own with a port": e.uri("HUB.test:443", "rw"), "loopback": e.uri(e.address(), "rw"),
	} {
		c, err := cl.Open(uri, false)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for name, data := range map[string][]byte{"devices.txt": []byte("a\nb\n"), "a folder/50% & ü?#.txt": []byte("x"), "empty": {}, "large": large} {
			if err := put(t, c, name, data); err != nil {
				t.Fatalf("%s: put %s: %v", what, name, err)
			}
			got, err := get(t, c, name)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %s came back with %d bytes, %v; want %d", what, name, len(got), err, len(data))
			}
		}
		if _, err := get(t, c, "none"); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: a missing file: %v", what, err)
		}
	}
	own, err := cl.Open("https://hub.test/files", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, own, "devices.txt"); err != nil {
		t.Errorf("with the hub's own right: %v", err)
	}
	readOnly, err := cl.Open(e.uri("hub.test", "r"), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t, readOnly, "devices.txt", []byte("x")); !fault.Is(err, fault.Forbidden) || !strings.Contains(err.Error(), "AuthorizationPermissionMismatch") {
		t.Errorf("a token that only reads: %v", err)
	}
	// An upload that is given up leaves what stood.
	u, err := own.Put(t.Context(), "devices.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = u.Write(bytes.Repeat([]byte("y"), 5<<20))
	u.Abort()
	if got, err := get(t, own, "devices.txt"); string(got) != "a\nb\n" {
		t.Errorf("after an upload that was given up: %q, %v", got, err)
	}
}

// A hub goes nowhere but where its operator lets it.
func TestOpen_Refuses(t *testing.T) {
	t.Parallel()
	e := open(t)
	c := e.client(t, "*.blob.example.net", "minio.example.org:9000")
	for _, uri := range []string{
		"https://a.blob.example.net/c?sig=x", "https://A.b.BLOB.example.net:443/c/d?sig=x", "https://minio.example.org:9000/c?sig=x",
		"https://127.0.0.1:1/c?sig=x", "http://localhost:10000/devstoreaccount1/c?sig=x", "https://[::1]/c?sig=x",
	} {
		if _, err := c.Open(uri, false); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for _, uri := range []string{
		"", "x", "ftp://127.0.0.1/c?sig=x", "https://blob.example.net/c?sig=x", "https://evilblob.example.net/c?sig=x", "https://a.blob.example.net:444/c?sig=x",
		"https://minio.example.org/c?sig=x", "http://a.blob.example.net/c?sig=x", "https://169.254.169.254/latest?sig=x", "https://10.0.0.1/c?sig=x",
		"https://user@a.blob.example.net/c?sig=x", "https://a.blob.example.net/?sig=x", "https://a.blob.example.net/c", "https://a.blob.example.net/c#f?sig=x",
		"https://a.blob.example.net/c/../d?sig=x", "https://a.blob.example.net//c?sig=x", "https://0.0.0.0/c?sig=x", "https://hub.test.evil/c?sig=x",
		"https://localhost.evil.test/c?sig=x", "http://hub.test/files?sig=x", "https://a.blob.example.net/c?a=%zz&sig=x",
	} {
		_, err := c.Open(uri, false)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%q is opened: %v", uri, err)
		}
		if err != nil && strings.Contains(err.Error(), "sig=") {
			t.Errorf("%q: the refusal shows the token: %v", uri, err)
		}
	}
	for _, uri := range []string{"https://a.blob.example.net/c", "https://hub.test/uploads", "https://127.0.0.1/c"} {
		if _, err := c.Open(uri, true); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q is opened with the hub's own right: %v", uri, err)
		}
	}
	if _, err := azblob.New(azblob.Config{Hosts: []string{"*"}}); err == nil {
		t.Error("a pattern for every host is taken")
	}
}

// A name of the list that leads to this machine is not followed, and neither is a redirect.
func TestClient_StaysWhereItMay(t *testing.T) {
	t.Parallel()
	e := open(t)
	// localhost.localdomain and friends resolve to loopback on most machines; an address literal of the list always does.
	c := e.client(t, "127.0.0.1.nip.invalid", "ip6-localhost:"+strings.Split(e.address(), ":")[1])
	k, err := c.Open(e.uri("ip6-localhost:"+strings.Split(e.address(), ":")[1], "rw"), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, k, "devices.txt"); err == nil || fault.Is(err, fault.NotFound) {
		t.Errorf("a listed name that leads to loopback: %v", err)
	}
	asked := 0
	bouncer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("x-ms-error-code", "<script>")
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	t.Cleanup(bouncer.Close)
	k, err = c.Open(bouncer.URL+"/c?sig=x", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, k, "a"); !fault.Is(err, fault.BadDeviceResponse) || asked != 1 || strings.Contains(err.Error(), "script") {
		t.Errorf("a redirect: %v after %d requests", err, asked)
	}
	if err := put(t, k, "a", []byte("x")); !fault.Is(err, fault.BadDeviceResponse) {
		t.Errorf("a redirected upload: %v", err)
	}
	bouncer.Close()
	if _, err := get(t, k, "a"); !fault.Is(err, fault.BadDeviceResponse) || strings.Contains(err.Error(), "sig=") {
		t.Errorf("a host that is away: %v", err)
	}
}
