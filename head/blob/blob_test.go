package blob_test

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	head "github.com/vauban-iot/vauban/head/blob"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/blob"
	"github.com/vauban-iot/vauban/wire/blobsas"
)

const container = "vauban-uploads"

// guard knows some tokens.
type guard struct{}

func (guard) Authorize(token string, need access.Right, _ ...string) error {
	switch {
	case token == "service" && need == access.ServiceConnect, token == "reader" && need == access.RegistryRead,
		token == "writer" && need == access.RegistryWrite:
		return nil
	case token == "device":
		return fault.New(fault.Forbidden, "no right")
	}
	return fault.New(fault.Unauthorized, "no policy")
}

type server struct {
	*httptest.Server
	key   secret.Secret
	ahead time.Duration
}

func serve(t testing.TB) *server {
	t.Helper()
	store, err := blob.Open(blob.Config{Dir: t.TempDir(), Limits: blob.Limits{Blob: 1000, Put: 500, Block: 300, Blocks: 10}})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{key: secret.Random(32)}
	h, err := head.New(head.Config{
		Container: container, Whole: []string{whole}, Key: s.key, Store: store, Guard: guard{}, Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(s.ahead) },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.Owns(r.URL.Path) {
			t.Errorf("%s is nobody's", r.URL.Path)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// grant is the query of a token for name.
func (s *server) grant(name, permissions string) string {
	return blobsas.Grant{Container: container, Blob: name, Permissions: permissions, Expiry: time.Now().Add(time.Hour)}.Sign(s.key.Reveal())
}

type answer struct {
	*http.Response
	body string
}

func (s *server) call(t testing.TB, method, target string, header map[string]string, body io.Reader) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+target, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, string(b)}
}

// want checks the status and, for a refusal, that storage clients can read it.
func (a answer) want(t testing.TB, status int, code string) answer {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("x-ms-error-code") != code {
		t.Fatalf("%s %s: status %d %q, want %d %q; body %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.Header.Get("x-ms-error-code"), status, code, a.body)
	}
	if a.Header.Get("x-ms-request-id") == "" || a.Header.Get("x-ms-version") == "" || a.Header.Get("Date") == "" {
		t.Errorf("header %v lacks what every answer has", a.Header)
	}
	if code == "" || a.Request.Method == http.MethodHead {
		return a
	}
	var e struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}
	if err := xml.Unmarshal([]byte(a.body), &e); err != nil || e.Code != code || e.Message == "" || a.Header.Get("Content-Type") != "application/xml" {
		t.Errorf("%s body %q, %v; want an Error with the code %s", a.Header.Get("Content-Type"), a.body, err, code)
	}
	return a
}

var block = map[string]string{"x-ms-blob-type": "BlockBlob"}

func with(more ...string) map[string]string {
	m := map[string]string{"x-ms-blob-type": "BlockBlob"}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

func TestPutGetDelete(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const name = "d/a b/ü.txt"
	path := "/" + container + "/" + (&url.URL{Path: name}).EscapedPath()
	q := "?" + s.grant(name, "rwd")
	body := "hello, world"
	sum := md5.Sum([]byte(body))
	sum64 := base64.StdEncoding.EncodeToString(sum[:])

	s.call(t, "GET", path+q, nil, nil).want(t, 404, "BlobNotFound")
	s.call(t, "HEAD", path+q, nil, nil).want(t, 404, "BlobNotFound")
	a := s.call(t, "PUT", path+q, with("x-ms-blob-content-type", "text/plain", "x-ms-meta-Who", "me", "Content-MD5", sum64, "x-ms-client-request-id", "c1"),
		strings.NewReader(body)).want(t, 201, "")
	etag := a.Header.Get("ETag")
	if etag == "" || a.Header.Get("Last-Modified") == "" || a.Header.Get("Content-MD5") != sum64 || a.Header.Get("x-ms-client-request-id") != "c1" {
		t.Errorf("header of Put Blob: %v", a.Header)
	}
	for _, method := range []string{"GET", "HEAD"} {
		a := s.call(t, method, path+q, nil, nil).want(t, 200, "")
		for k, v := range map[string]string{
			"ETag": etag, "Content-Type": "text/plain", "Content-MD5": sum64, "Content-Length": "12", "x-ms-blob-type": "BlockBlob", "x-ms-meta-who": "me", "Accept-Ranges": "bytes",
		} {
			if got := a.Header.Get(k); got != v {
				t.Errorf("%s: %s is %q, want %q", method, k, got, v)
			}
		}
		if method == "GET" && a.body != body {
			t.Errorf("got %q", a.body)
		}
	}
	for text, want := range map[string]string{"bytes=0-": body, "bytes=7-": "world", "bytes=7-8": "wo", "bytes=11-99": "d"} {
		a := s.call(t, "GET", path+q, map[string]string{"x-ms-range": text, "Range": "bytes=0-0"}, nil).want(t, 206, "")
		if a.body != want || !strings.HasSuffix(a.Header.Get("Content-Range"), "/12") {
			t.Errorf("%s: got %q, Content-Range %q", text, a.body, a.Header.Get("Content-Range"))
		}
	}
	for _, text := range []string{"bytes=12-", "bytes=-5", "bytes=3-1", "bytes=a-b", "x", "bytes=99999999999999999999-", "bytes=0-1,3-4"} {
		s.call(t, "GET", path+q, map[string]string{"Range": text}, nil).want(t, 416, "InvalidRange")
	}
	s.call(t, "GET", path+q, map[string]string{"If-None-Match": etag}, nil).want(t, 304, "")
	s.call(t, "GET", path+q, map[string]string{"If-Match": `"x"`}, nil).want(t, 412, "ConditionNotMet")

	// Both spellings of a path mean the same blob.
	s.call(t, "GET", strings.ReplaceAll(path, "d/a", "d%2Fa")+q, nil, nil).want(t, 200, "")

	s.call(t, "PUT", path+q, with("If-None-Match", "*"), strings.NewReader("x")).want(t, 409, "BlobAlreadyExists")
	s.call(t, "PUT", path+q, with("If-Match", `"x"`), strings.NewReader("x")).want(t, 412, "ConditionNotMet")
	s.call(t, "PUT", path+q, with("If-Match", etag), strings.NewReader("")).want(t, 201, "")
	if a := s.call(t, "GET", path+q, nil, nil).want(t, 200, ""); a.body != "" {
		t.Errorf("an empty blob reads %q", a.body)
	}
	s.call(t, "DELETE", path+q, nil, nil).want(t, 202, "")
	s.call(t, "DELETE", path+q, nil, nil).want(t, 404, "BlobNotFound")
	s.call(t, "PUT", path+q, with("If-Match", "*"), strings.NewReader("x")).want(t, 412, "ConditionNotMet")
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	s := serve(t)
	path, q := "/"+container+"/d/big", "?"+s.grant("d/big", "rw")
	id := func(n int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%03d>>?", n)) }
	put := func(n int, body string, header map[string]string) answer {
		return s.call(t, "PUT", path+q+"&comp=block&blockid="+url.QueryEscape(id(n)), header, strings.NewReader(body))
	}
	list := func(rows string) answer {
		return s.call(t, "PUT", path+q+"&comp=blocklist", with("x-ms-blob-content-type", "a/b", "Content-Type", "application/xml"),
			strings.NewReader(`<?xml version="1.0" encoding="utf-8"?>`+rows))
	}
	put(1, "one,", nil).want(t, 201, "")
	put(0, "zero,", nil).want(t, 201, "")
	list("<BlockList><Latest>"+id(0)+"</Latest><Latest>"+id(7)+"</Latest></BlockList>").want(t, 400, "InvalidBlockList")
	s.call(t, "GET", path+q, nil, nil).want(t, 404, "BlobNotFound")
	list("<BlockList>\n <Latest>"+id(0)+"</Latest>\n <Uncommitted>"+id(1)+"</Uncommitted><Committed>"+id(0)+"</Committed></BlockList>").want(t, 201, "")
	if a := s.call(t, "GET", path+q, nil, nil).want(t, 200, ""); a.body != "zero,one,zero," || a.Header.Get("Content-Type") != "a/b" {
		t.Errorf("got %q of type %q", a.body, a.Header.Get("Content-Type"))
	}
	list("<BlockList><Latest>"+id(0)+"</Latest><Latest>"+id(1)+"</Latest><Latest>"+id(0)+"</Latest></BlockList>").want(t, 201, "")

	for what, rows := range map[string]string{
		"nothing": "", "no end": "<BlockList><Latest>" + id(0), "another root": "<x/>", "another row": "<BlockList><x/></BlockList>",
		"deeper": "<BlockList><Latest><Latest/></Latest></BlockList>", "a document type": `<!DOCTYPE a [<!ENTITY b "c">]><BlockList/>`, "an entity": "<BlockList><Latest>&b;</Latest></BlockList>",
	} {
		if a := list(rows); a.StatusCode != 400 || a.Header.Get("x-ms-error-code") != "InvalidXmlDocument" {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.body)
		}
	}
	list("<BlockList><Latest>no base64</Latest></BlockList>").want(t, 400, "InvalidQueryParameterValue")
	list("<BlockList>"+strings.Repeat("<Latest>"+id(0)+"</Latest>", 11)+"</BlockList>").want(t, 413, "RequestBodyTooLarge")
	list("<BlockList>"+strings.Repeat(" ", 5000)+"</BlockList>").want(t, 413, "RequestBodyTooLarge")
	put(1, "", nil).want(t, 411, "MissingContentLengthHeader")
	put(1, strings.Repeat("x", 301), nil).want(t, 413, "RequestBodyTooLarge")
	put(1, "x", map[string]string{"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}).want(t, 400, "Md5Mismatch")
	put(1, "x", map[string]string{"Content-MD5": "x"}).want(t, 400, "InvalidHeaderValue")
	for _, bad := range []string{"", "&blockid=", "&blockid=x", "&blockid=" + base64.URLEncoding.EncodeToString(make([]byte, 65))} {
		s.call(t, "PUT", path+q+"&comp=block"+bad, nil, strings.NewReader("x")).want(t, 400, "InvalidQueryParameterValue")
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const name = "d/a"
	path, q := "/"+container+"/"+name, "?"+s.grant(name, "rw")
	s.call(t, "PUT", path+q, block, strings.NewReader("kept")).want(t, 201, "")
	token := func(v string) map[string]string { return map[string]string{"Authorization": v} }
	for what, c := range map[string]struct {
		method, target string
		header         map[string]string
		body           string
		status         int
		code           string
	}{
		"no token":                {"GET", path, nil, "", 401, "NoAuthenticationInformation"},
		"another blob":            {"GET", path + "2" + q, nil, "", 403, "AuthenticationFailed"},
		"the container":           {"GET", "/" + container + q, nil, "", 404, "BlobNotFound"},
		"a way out":               {"GET", "/" + container + "/../" + container + "/d%2F..%2Fa" + q, nil, "", 403, "AuthenticationFailed"},
		"a broken signature":      {"GET", path + strings.Replace(q, "sig=", "sig=AAAA", 1), nil, "", 403, "AuthenticationFailed"},
		"more permissions":        {"DELETE", path + strings.Replace(q, "sp=rw", "sp=rwd", 1), nil, "", 403, "AuthenticationFailed"},
		"no right to delete":      {"DELETE", path + q, nil, "", 403, "AuthorizationPermissionMismatch"},
		"no right to read":        {"GET", path + "?" + s.grant(name, "w"), nil, "", 403, "AuthorizationPermissionMismatch"},
		"no right to write":       {"PUT", path + "?" + s.grant(name, "r"), block, "x", 403, "AuthorizationPermissionMismatch"},
		"no right to put a block": {"PUT", path + "?" + s.grant(name, "r") + "&comp=block&blockid=AAAA", nil, "x", 403, "AuthorizationPermissionMismatch"},
		"no right to list":        {"PUT", path + "?" + s.grant(name, "r") + "&comp=blocklist", nil, "<BlockList/>", 403, "AuthorizationPermissionMismatch"},
		"another verb":            {"PATCH", path + q, nil, "", 405, "UnsupportedHttpVerb"},
		"another operation":       {"PUT", path + q + "&comp=metadata", nil, "", 400, "InvalidQueryParameterValue"},
		"another kind of blob":    {"PUT", path + q, map[string]string{"x-ms-blob-type": "PageBlob"}, "", 400, "InvalidHeaderValue"},
		"no kind of blob":         {"PUT", path + q, nil, "", 400, "InvalidHeaderValue"},
		"too much metadata":       {"PUT", path + q, with("x-ms-meta-a", strings.Repeat("x", 8<<10)), "", 400, "InvalidHeaderValue"},
		"too large":               {"PUT", path + q, block, strings.Repeat("x", 501), 413, "RequestBodyTooLarge"},
		"a foreign service":       {"GET", path, token("x"), "", 403, "AuthenticationFailed"},
		"a policy of devices":     {"GET", path, token("device"), "", 403, "AuthorizationPermissionMismatch"},
		"a service that writes":   {"PUT", path, with("Authorization", "service"), "x", 403, "AuthorizationPermissionMismatch"},
	} {
		t.Run(what, func(t *testing.T) {
			s.call(t, c.method, c.target, c.header, strings.NewReader(c.body)).want(t, c.status, c.code)
		})
	}
	s.call(t, "PUT", path+q, block, io.MultiReader(strings.NewReader("of unknown length"))).want(t, 411, "MissingContentLengthHeader")
	if a := s.call(t, "GET", path, token("service"), nil).want(t, 200, ""); a.body != "kept" {
		t.Errorf("after refusals the blob reads %q", a.body)
	}
	s.ahead = time.Hour + time.Second
	s.call(t, "GET", path+q, nil, nil).want(t, 403, "AuthenticationFailed")
	s.call(t, "DELETE", path, token("service"), nil).want(t, 202, "")
}

// A body that breaks off leaves nothing.
func TestPut_BreaksOff(t *testing.T) {
	t.Parallel()
	s := serve(t)
	path, q := "/"+container+"/d/half", "?"+s.grant("d/half", "rw")
	r, err := http.NewRequestWithContext(t.Context(), "PUT", s.URL+path+q, io.MultiReader(strings.NewReader("half")))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = 100
	r.Header.Set("x-ms-blob-type", "BlockBlob")
	if resp, err := s.Client().Do(r); err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("half a body was taken: %d", resp.StatusCode)
		}
	}
	s.call(t, "GET", path+q, nil, nil).want(t, 404, "BlobNotFound")
}
