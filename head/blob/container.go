package blob

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/blobsas"
)

// A whole container has a fixed name and is always there. Its blobs lie in a folder of their own in the store, whose name
// no device can have.
func folder(container string) string { return "~" + container }

var errStands = fault.New(fault.AlreadyExists, "the container exists already")

// maxName bounds the name of a blob, in characters (Azure's bound).
const maxName = 1024

func checkName(name string) error {
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.Invalid, "the name of a blob has 1 to %d characters, none of them a control character", maxName)
	}
	return nil
}

// permit judges who asks for something in a whole container: the holder of a token for it, or for one blob of it, or a hub policy with
// the rights of the registry, because what lies there are identities. name is empty for the container itself.
func (h *Head) permit(q *request, need, name string) error {
	if !blobsas.Present(q.query) {
		token := q.Header.Get("Authorization")
		if token == "" {
			return errNoAuth
		}
		right := access.RegistryWrite
		if need == "r" || need == "l" || need == "rl" {
			right = access.RegistryRead
		}
		return h.cfg.Guard.Authorize(token, right)
	}
	t, err := blobsas.Parse(q.query)
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the shared access signature cannot be read")
	}
	if !t.Verify(h.cfg.Key.Reveal(), q.container, name) {
		return fault.New(fault.Unauthorized, "the signature does not verify for this container")
	}
	if h.cfg.Now().After(t.Expiry) {
		return fault.New(fault.Unauthorized, "the shared access signature expired at %s", t.Expiry.Format(time.RFC3339))
	}
	if !t.Allows(need) {
		return errRight
	}
	return nil
}

// serveContainer runs an operation on a container itself.
func (h *Head) serveContainer(q *request, comp string) error {
	container, rest, _ := strings.Cut(strings.TrimPrefix(q.URL.EscapedPath(), "/"), "/")
	q.container = container
	if container == h.cfg.Container || rest != "" {
		return errQuery // of uploads there are tokens for single files only
	}
	switch {
	case q.Method == http.MethodPost && comp == "sas":
		return h.grant(q)
	case comp == "list" && q.Method == http.MethodGet:
		if err := h.permit(q, "l", ""); err != nil {
			return err
		}
		return h.list(q)
	case comp != "":
		return errQuery
	case q.Method == http.MethodGet, q.Method == http.MethodHead:
		if err := h.permit(q, "rl", ""); err != nil {
			return err
		}
		header := q.w.Header()
		header["ETag"] = []string{`"0x0"`}
		header["Last-Modified"] = []string{time.Unix(0, 0).UTC().Format(http.TimeFormat)}
		header["x-ms-lease-status"], header["x-ms-lease-state"] = []string{"unlocked"}, []string{"available"}
		q.w.WriteHeader(http.StatusOK)
		return nil
	case q.Method == http.MethodPut:
		if err := h.permit(q, "wc", ""); err != nil {
			return err
		}
		return errStands
	}
	return errVerb
}

// Lives of tokens that grant makes.
const (
	defaultLife = time.Hour
	maxLife     = 7 * 24 * time.Hour
)

// grant answers a hub policy with the URI of the container and a token for all of it. Azure has no such operation: there the
// owner of the account's key makes tokens.
func (h *Head) grant(q *request) error {
	token := q.Header.Get("Authorization")
	if token == "" {
		return errNoAuth
	}
	if err := h.cfg.Guard.Authorize(token, access.RegistryWrite); err != nil {
		return err
	}
	permissions := q.query.Get("permissions")
	if permissions == "" {
		permissions = "rcwdl"
	}
	if strings.Trim(permissions, "rcwdl") != "" || len(permissions) > len("rcwdl") {
		return errQuery
	}
	life := defaultLife
	if text := q.query.Get("seconds"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || time.Duration(n) > maxLife/time.Second {
			return errQuery
		}
		life = time.Duration(n) * time.Second
	}
	expiry := h.cfg.Now().Add(life)
	grant := blobsas.Grant{Container: q.container, Permissions: permissions, Expiry: expiry}
	u := url.URL{Scheme: "https", Host: q.Host, Path: "/" + q.container, RawQuery: grant.Sign(h.cfg.Key.Reveal())}
	body, err := json.Marshal(struct {
		URI    string    `json:"containerUri"`
		Expiry time.Time `json:"expiry"`
	}{u.String(), expiry.UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	h.cfg.Logger.InfoContext(q.Context(), "token for a container made", "head", "blob", "container", q.container, "permissions", permissions,
		"expiry", expiry.UTC(), "remote", q.RemoteAddr)
	q.w.Header()["Content-Type"] = []string{"application/json; charset=utf-8"}
	q.w.Header()["Cache-Control"] = []string{"no-store"}
	_, err = q.w.Write(append(body, '\n'))
	return err
}

// maxPage is the most blobs of one list.
const maxPage = 5000

type listed struct {
	Name       string
	Properties listedProperties
}

type listedProperties struct {
	Created     string `xml:"Creation-Time"`
	Modified    string `xml:"Last-Modified"`
	ETag        string `xml:"Etag"`
	Size        int64  `xml:"Content-Length"`
	Type        string `xml:"Content-Type"`
	BlobType    string
	LeaseStatus string
	LeaseState  string
	Encrypted   bool `xml:"ServerEncrypted"`
}

func (h *Head) list(q *request) error {
	if q.query.Get("delimiter") != "" {
		return errQuery
	}
	limit := maxPage
	if text := q.query.Get("maxresults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return errQuery
		}
		limit = min(n, maxPage)
	}
	prefix, marker := q.query.Get("prefix"), q.query.Get("marker")
	at := folder(q.container) + "/"
	after := ""
	if marker != "" {
		after = at + marker
	}
	items, err := h.cfg.Store.List(q.Context(), folder(q.container), prefix, after, limit+1)
	if err != nil {
		return err
	}
	next := ""
	if len(items) > limit {
		items = items[:limit]
		next = strings.TrimPrefix(items[limit-1].Name, at)
	}
	blobs := make([]listed, len(items))
	for i, item := range items {
		modified := item.Modified.Format(http.TimeFormat)
		blobs[i] = listed{strings.TrimPrefix(item.Name, at), listedProperties{
			Created: modified, Modified: modified, ETag: item.ETag, Size: item.Size, Type: item.ContentType,
			BlobType: "BlockBlob", LeaseStatus: "unlocked", LeaseState: "available",
		}}
	}
	body, err := xml.Marshal(struct {
		XMLName    xml.Name `xml:"EnumerationResults"`
		Endpoint   string   `xml:"ServiceEndpoint,attr"`
		Container  string   `xml:"ContainerName,attr"`
		Prefix     string   `xml:"Prefix,omitempty"`
		Marker     string   `xml:"Marker,omitempty"`
		MaxResults int      `xml:"MaxResults"`
		Blobs      []listed `xml:"Blobs>Blob"`
		Next       string   `xml:"NextMarker"`
	}{Endpoint: "https://" + q.Host + "/", Container: q.container, Prefix: prefix, Marker: marker, MaxResults: limit, Blobs: blobs, Next: next})
	if err != nil {
		return err
	}
	q.w.Header()["Content-Type"] = []string{"application/xml"}
	if _, err := q.w.Write(append([]byte(xml.Header), body...)); err != nil {
		return nil //nolint:nilerr // the peer left
	}
	return nil
}
