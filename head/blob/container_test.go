package blob_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/wire/blobsas"
)

const whole = "vauban-transfers"

func (s *server) key2(permissions string) string {
	return blobsas.Grant{Container: whole, Permissions: permissions, Expiry: time.Now().Add(time.Hour)}.Sign(s.key.Reveal())
}

// in checks a status, and Azure's word for a refusal.
func (a answer) in(t *testing.T, what string, status int, code string) answer {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("x-ms-error-code") != code {
		t.Errorf("%s: got %d %q, want %d %q\n%s", what, a.StatusCode, a.Header.Get("x-ms-error-code"), status, code, a.body)
	}
	return a
}

var blockBlob = map[string]string{"x-ms-blob-type": "BlockBlob"}

func TestContainer_Tokens(t *testing.T) {
	t.Parallel()
	s := serve(t)
	at := func(name, query string) string { return "/" + whole + "/" + name + "?" + query }
	s.call(t, "PUT", at("a/b.txt", s.key2("w")), blockBlob, strings.NewReader("one")).in(t, "write", 201, "")
	if a := s.call(t, "GET", at("a/b.txt", s.key2("r")), nil, nil).in(t, "read", 200, ""); a.body != "one" {
		t.Errorf("read %q", a.body)
	}
	s.call(t, "GET", at("a/b.txt", s.key2("w")), nil, nil).in(t, "read with a token that writes", 403, "AuthorizationPermissionMismatch")
	s.call(t, "PUT", at("a/b.txt", s.key2("rl")), blockBlob, strings.NewReader("x")).in(t, "write with a token that reads", 403, "AuthorizationPermissionMismatch")
	s.call(t, "DELETE", at("a/b.txt", s.key2("rw")), nil, nil).in(t, "delete with a token that writes", 403, "AuthorizationPermissionMismatch")
	s.call(t, "GET", at("none", s.key2("r")), nil, nil).in(t, "a missing blob", 404, "BlobNotFound")
	s.call(t, "GET", at("a/b.txt", ""), nil, nil).in(t, "no token", 401, "NoAuthenticationInformation")
	s.call(t, "GET", at("a%00b", s.key2("r")), nil, nil).in(t, "a control character", 400, "InvalidInput")
	// A token of one container or blob opens no other, and no upload of a device has a container's name.
	other := blobsas.Grant{Container: container, Permissions: "r", Expiry: time.Now().Add(time.Hour)}.Sign(s.key.Reveal())
	s.call(t, "GET", at("a/b.txt", other), nil, nil).in(t, "another container's token", 403, "AuthenticationFailed")
	s.call(t, "GET", "/"+container+"/~"+whole+"/a/b.txt?"+s.grant("~"+whole+"/a/b.txt", "r"), nil, nil).in(t, "through the uploads", 200, "")
	one := blobsas.Grant{Container: whole, Blob: "a/b.txt", Permissions: "r", Expiry: time.Now().Add(time.Hour)}.Sign(s.key.Reveal())
	s.call(t, "GET", at("a/b.txt", one), nil, nil).in(t, "a blob's own token", 200, "")
	s.call(t, "GET", at("a/c.txt", one), nil, nil).in(t, "another blob", 403, "AuthenticationFailed")
	late := s.key2("r")
	s.ahead = 2 * time.Hour
	s.call(t, "GET", at("a/b.txt", late), nil, nil).in(t, "an old token", 403, "AuthenticationFailed")
}

// Hub policies come with the rights of the registry; what services may do with uploads does not count here.
func TestContainer_Policies(t *testing.T) {
	t.Parallel()
	s := serve(t)
	at := "/" + whole + "/f"
	as := func(token string) map[string]string {
		return map[string]string{"Authorization": token, "x-ms-blob-type": "BlockBlob"}
	}
	s.call(t, "PUT", at, as("writer"), strings.NewReader("x")).in(t, "write", 201, "")
	s.call(t, "GET", at, as("reader"), nil).in(t, "read", 200, "")
	s.call(t, "PUT", at, as("reader"), strings.NewReader("x")).in(t, "write with RegistryRead", 403, "AuthenticationFailed")
	s.call(t, "GET", at, as("service"), nil).in(t, "read with ServiceConnect", 403, "AuthenticationFailed")
	s.call(t, "DELETE", at, as("reader"), nil).in(t, "delete with RegistryRead", 403, "AuthenticationFailed")

	grant := "/" + whole + "?restype=container&comp=sas"
	s.call(t, "POST", grant, nil, nil).in(t, "a token for nobody", 401, "NoAuthenticationInformation")
	s.call(t, "POST", grant, as("reader"), nil).in(t, "a token for a reader", 403, "AuthenticationFailed")
	s.call(t, "POST", grant+"&permissions=x", as("writer"), nil).in(t, "another letter", 400, "InvalidQueryParameterValue")
	s.call(t, "POST", grant+"&seconds=999999999", as("writer"), nil).in(t, "a long life", 400, "InvalidQueryParameterValue")
	a := s.call(t, "POST", grant+"&permissions=rl&seconds=60", as("writer"), nil).in(t, "a token", 200, "")
	var doc struct {
		URI    string    `json:"containerUri"`
		Expiry time.Time `json:"expiry"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || time.Until(doc.Expiry) > time.Minute {
		t.Fatalf("answer %s: %v", a.body, err)
	}
	u, err := url.Parse(doc.URI)
	if err != nil || u.Scheme != "https" || u.Path != "/"+whole {
		t.Fatalf("URI %s: %v", doc.URI, err)
	}
	s.call(t, "GET", at+"?"+u.RawQuery, nil, nil).in(t, "with the token", 200, "")
	s.call(t, "PUT", at+"?"+u.RawQuery, blockBlob, strings.NewReader("x")).in(t, "write with it", 403, "AuthorizationPermissionMismatch")
	s.call(t, "DELETE", at, as("writer"), nil).in(t, "delete", 202, "")
}

func TestContainer_List(t *testing.T) {
	t.Parallel()
	s := serve(t)
	names := []string{"a", "a/b", "b & <c>", "d", "ü"}
	for _, n := range names {
		s.call(t, "PUT", "/"+whole+"/"+url.PathEscape(n)+"?"+s.key2("w"), blockBlob, strings.NewReader(n)).in(t, n, 201, "")
	}
	s.call(t, "PUT", "/"+container+"/dev/upload?"+s.grant("dev/upload", "w"), blockBlob, strings.NewReader("x")).in(t, "an upload", 201, "")
	list := func(query string) (got []string, next string) {
		t.Helper()
		a := s.call(t, "GET", "/"+whole+"?restype=container&comp=list"+query+"&"+s.key2("l"), nil, nil).in(t, query, 200, "")
		var doc struct {
			Container string `xml:"ContainerName,attr"`
			Blobs     []struct {
				Name string
				Size int    `xml:"Properties>Content-Length"`
				Type string `xml:"Properties>BlobType"`
			} `xml:"Blobs>Blob"`
			Next string `xml:"NextMarker"`
		}
		if err := xml.Unmarshal([]byte(a.body), &doc); err != nil || doc.Container != whole {
			t.Fatalf("%s: %v", a.body, err)
		}
		for _, b := range doc.Blobs {
			if b.Size != len(b.Name) || b.Type != "BlockBlob" {
				t.Errorf("%+v", b)
			}
			got = append(got, b.Name)
		}
		return got, doc.Next
	}
	is := func(query, want, wantNext string) {
		t.Helper()
		if got, next := list(query); fmt.Sprint(got) != want || next != wantNext {
			t.Errorf("list %s: got %v, next %q; want %s, %q", query, got, next, want, wantNext)
		}
	}
	is("", "[a a/b b & <c> d ü]", "")
	is("&prefix=a", "[a a/b]", "")
	is("&prefix=none", "[]", "")
	is("&maxresults=2", "[a a/b]", "a/b")
	is("&maxresults=2&marker="+url.QueryEscape("a/b"), "[b & <c> d]", "d")
	is("&maxresults=2&marker=d", "[ü]", "")
	s.call(t, "GET", "/"+whole+"?restype=container&comp=list&"+s.key2("rw"), nil, nil).in(t, "without l", 403, "AuthorizationPermissionMismatch")
	s.call(t, "GET", "/"+whole+"?restype=container&comp=list&delimiter=/&"+s.key2("l"), nil, nil).in(t, "with a delimiter", 400, "InvalidQueryParameterValue")
	s.call(t, "GET", "/"+container+"?restype=container&comp=list&"+s.key2("l"), nil, nil).in(t, "of uploads", 400, "InvalidQueryParameterValue")

	s.call(t, "HEAD", "/"+whole+"?restype=container&"+s.key2("r"), nil, nil).in(t, "properties", 200, "")
	s.call(t, http.MethodPut, "/"+whole+"?restype=container&"+s.key2("c"), nil, nil).in(t, "create", 409, "ContainerAlreadyExists")
	s.call(t, http.MethodDelete, "/"+whole+"?restype=container&"+s.key2("d"), nil, nil).in(t, "delete", 405, "UnsupportedHttpVerb")
}
