// Package blob is the head that takes files: the part of Azure's Blob REST API that storage clients
// use to upload and read a block blob, so that devices send files to this hub as they would to a
// storage account (hub-device §4.4).
//
// It serves Put Blob, Put Block, Put Block List, Get Blob, Get Blob Properties and Delete Blob in the container of uploads,
// to whoever holds a token of [wire/blobsas] for that very blob. Services may read and
// delete with the token of a hub policy that has ServiceConnect. Bodies stream; a connection that
// moves nothing for a minute is cut.
//
// Beside it are whole containers, for which there are tokens of their own (hub-service §2.7): they serve List Blobs and Get
// Container Properties, too, and hub policies write and read there with the rights of the registry. See container.go.
package blob

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/blob"
	"github.com/vauban-iot/vauban/wire/blobsas"
)

// Store keeps the blobs.
type Store interface {
	Put(ctx context.Context, name string, p blob.Properties, r io.Reader, sum []byte) (blob.Info, error)
	Stage(ctx context.Context, name, id string, r io.Reader, size int64, sum []byte) error
	Commit(ctx context.Context, name string, ids []string, p blob.Properties) (blob.Info, error)
	Info(ctx context.Context, name string) (blob.Info, error)
	Read(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	Delete(ctx context.Context, name string) error
	List(ctx context.Context, folder, prefix, after string, limit int) ([]blob.Item, error)
	Limits() blob.Limits
}

// Authorizer checks the Authorization header of a service.
type Authorizer interface {
	Authorize(token string, need access.Right, path ...string) error
}

// Config of a head. Container, Key, Store and Guard are required.
type Config struct {
	Container string
	Whole     []string      // containers with tokens for all that is in them
	Key       secret.Secret // that signed the tokens
	Store     Store
	Guard     Authorizer
	Admit     access.Gate      // nil: callers may come from anywhere
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: slog.Default()
}

// Head serves the API. It is an http.Handler for the paths that Owns names.
type Head struct {
	cfg Config
}

// New returns a head.
func New(cfg Config) (*Head, error) {
	if cfg.Container == "" || cfg.Key.IsZero() || cfg.Store == nil || cfg.Guard == nil {
		return nil, errors.New("head/blob: incomplete configuration")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Head{cfg: cfg}, nil
}

// Owns reports whether a path lies in one of the containers.
func (h *Head) Owns(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first == h.cfg.Container || slices.Contains(h.cfg.Whole, first)
}

// request is one call about one blob, or about a whole container.
type request struct {
	*http.Request
	w         http.ResponseWriter
	query     url.Values
	container string
	name      string // of the blob in the store
}

// The failures with a word of their own.
var (
	errNoAuth  = fault.New(fault.Unauthorized, "the request holds neither a shared access signature nor a token")
	errRight   = fault.New(fault.Forbidden, "the token does not allow this operation")
	errVerb    = fault.New(fault.Invalid, "the resource does not support this verb")
	errLength  = fault.New(fault.Invalid, "the length of the body must be announced")
	errQuery   = fault.New(fault.Invalid, "a parameter of the query is not supported")
	errHeader  = fault.New(fault.Invalid, "a header has a value that is not supported")
	errBlockID = fault.New(fault.Invalid, "the block id is not the base64 of 1 to 64 bytes")
	errXML     = fault.New(fault.Malformed, "the body is no block list")
	errRange   = fault.New(fault.Invalid, "the range lies outside of the blob")
	errExists  = fault.New(fault.AlreadyExists, "the blob exists already")
	errMatch   = fault.New(fault.PreconditionFailed, "the condition of a header is not met")
)

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header["x-ms-request-id"] = []string{nonce.New()}
	header["x-ms-version"] = []string{blobsas.Version}
	if id := r.Header.Get("x-ms-client-request-id"); id != "" && len(id) <= 1024 {
		header["x-ms-client-request-id"] = []string{id}
	}
	q := &request{Request: r, w: w, query: r.URL.Query()}
	if err := h.serve(q); err != nil {
		h.refuse(q, err)
	}
}

// serve runs one operation. Each first asks for the permission it needs, any one of the letters.
func (h *Head) serve(q *request) error {
	if h.cfg.Admit != nil {
		if _, err := h.cfg.Admit(q.RemoteAddr); err != nil {
			return err
		}
	}
	comp := q.query.Get("comp")
	if strings.EqualFold(q.query.Get("restype"), "container") {
		return h.serveContainer(q, comp)
	}
	switch {
	case q.Method == http.MethodPut && comp == "":
		return h.with(q, "wc", h.put)
	case q.Method == http.MethodPut && comp == "block":
		return h.with(q, "wc", h.putBlock)
	case q.Method == http.MethodPut && comp == "blocklist":
		return h.with(q, "wc", h.putBlockList)
	case comp != "":
		return errQuery
	case q.Method == http.MethodGet, q.Method == http.MethodHead:
		return h.with(q, "r", h.get)
	case q.Method == http.MethodDelete:
		return h.with(q, "d", h.remove)
	}
	return errVerb
}

func (h *Head) with(q *request, need string, serve func(*request) error) error {
	if err := h.authorize(q, need); err != nil {
		return err
	}
	return serve(q)
}

// authorize finds the blob of a request and whether the caller may do what it wants with it.
func (h *Head) authorize(q *request, need string) error {
	container, literal, _ := strings.Cut(strings.TrimPrefix(q.URL.EscapedPath(), "/"), "/")
	if literal == "" {
		return fault.New(fault.NotFound, "the path names no blob")
	}
	name, err := url.PathUnescape(literal)
	if err != nil {
		return fault.New(fault.Invalid, "the path has a broken escape")
	}
	q.container, q.name = container, name
	if container != h.cfg.Container {
		if err := checkName(name); err != nil {
			return err
		}
		q.name = folder(container) + "/" + name
		return h.permit(q, need, name)
	}
	if !blobsas.Present(q.query) {
		token := q.Header.Get("Authorization")
		if token == "" {
			return errNoAuth
		}
		if err := h.cfg.Guard.Authorize(token, access.ServiceConnect); err != nil {
			return err
		}
		if need == "wc" {
			return errRight // files are written by devices
		}
		return nil
	}
	t, err := blobsas.Parse(q.query)
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the shared access signature cannot be read")
	}
	key := h.cfg.Key.Reveal()
	switch {
	case t.Verify(key, h.cfg.Container, name):
	case t.Verify(key, h.cfg.Container, literal):
		q.name = literal // Node writes the name of the grant into the URL as it is
	default:
		return fault.New(fault.Unauthorized, "the signature does not verify for this blob")
	}
	if h.cfg.Now().After(t.Expiry) {
		return fault.New(fault.Unauthorized, "the shared access signature expired at %s", t.Expiry.Format(time.RFC3339))
	}
	if !t.Allows(need) {
		return errRight
	}
	return nil
}

// patience is how long a connection may move nothing in the middle of a body.
const patience = time.Minute

// upstream is a body that must keep coming.
type upstream struct {
	r io.Reader
	c *http.ResponseController
}

func (u upstream) Read(p []byte) (int, error) {
	_ = u.c.SetReadDeadline(time.Now().Add(patience)) // where it is not supported there is no socket either
	n, err := u.r.Read(p)
	if err != nil {
		u.done()
	}
	return n, err
}

// done ends the watch: a client that waits for its answer is silent, however long that takes.
func (u upstream) done() { _ = u.c.SetReadDeadline(time.Time{}) }

// body is the announced body of a request with the MD5 it must have, if that was announced, too.
func (q *request) body(limit int64) (r upstream, sum []byte, err error) {
	if q.ContentLength < 0 {
		return r, nil, errLength
	}
	if q.ContentLength > limit {
		return r, nil, blob.ErrTooLarge
	}
	if text := q.Header.Get("Content-MD5"); text != "" {
		if sum, err = base64.StdEncoding.DecodeString(text); err != nil || len(sum) != md5.Size {
			return r, nil, errHeader
		}
	}
	return upstream{q.Body, http.NewResponseController(q.w)}, sum, nil
}

// Bounds of metadata, as Azure's.
const maxMetadata = 8 << 10

func (q *request) properties() (blob.Properties, error) {
	p := blob.Properties{
		ContentType: q.Header.Get("x-ms-blob-content-type"), ContentEncoding: q.Header.Get("x-ms-blob-content-encoding"),
		ContentLanguage: q.Header.Get("x-ms-blob-content-language"), ContentDisposition: q.Header.Get("x-ms-blob-content-disposition"),
		CacheControl: q.Header.Get("x-ms-blob-cache-control"),
	}
	if p.ContentType == "" && q.query.Get("comp") == "" {
		p.ContentType = q.Header.Get("Content-Type") // of a list it is the list's own
	}
	size := 0
	for name, values := range q.Header {
		key, ok := strings.CutPrefix(strings.ToLower(name), "x-ms-meta-")
		if !ok || key == "" {
			continue
		}
		if size += len(key) + len(values[0]); size > maxMetadata {
			return p, errHeader
		}
		if p.Metadata == nil {
			p.Metadata = make(map[string]string)
		}
		p.Metadata[key] = values[0]
	}
	return p, nil
}

// condition judges the conditions of a write. Another write may come between it and ours: then the last wins.
func (h *Head) condition(q *request) error {
	none, match := q.Header.Get("If-None-Match"), q.Header.Get("If-Match")
	if none == "" && match == "" {
		return nil
	}
	i, err := h.cfg.Store.Info(q.Context(), q.name)
	switch {
	case fault.Is(err, fault.NotFound):
		if match != "" {
			return errMatch
		}
		return nil
	case err != nil:
		return err
	case none == "*":
		return errExists
	case none == i.ETag, match != "" && match != "*" && match != i.ETag:
		return errMatch
	}
	return nil
}

func (h *Head) put(q *request) error {
	if t := q.Header.Get("x-ms-blob-type"); !strings.EqualFold(t, "BlockBlob") {
		return errHeader
	}
	p, err := q.properties()
	if err != nil {
		return err
	}
	r, sum, err := q.body(h.cfg.Store.Limits().Put)
	if err != nil {
		return err
	}
	if err := h.condition(q); err != nil {
		return err
	}
	i, err := h.cfg.Store.Put(q.Context(), q.name, p, r, sum)
	if err != nil {
		return err
	}
	h.created(q, i)
	return nil
}

// created answers a write that made the blob.
func (h *Head) created(q *request, i blob.Info) {
	header := q.w.Header()
	header["ETag"] = []string{i.ETag}
	header["Last-Modified"] = []string{i.Modified.Format(http.TimeFormat)}
	if len(i.MD5) > 0 && q.query.Get("comp") == "" { // of a list Azure knows no sum
		header["Content-MD5"] = []string{base64.StdEncoding.EncodeToString(i.MD5)}
	}
	header["x-ms-request-server-encrypted"] = []string{"false"}
	q.w.WriteHeader(http.StatusCreated)
}

func (h *Head) putBlock(q *request) error {
	id, err := blockID(q.query.Get("blockid"))
	if err != nil {
		return err
	}
	r, sum, err := q.body(h.cfg.Store.Limits().Block)
	if err != nil {
		return err
	}
	if q.ContentLength == 0 {
		return errLength
	}
	if err := h.cfg.Store.Stage(q.Context(), q.name, id, r, q.ContentLength, sum); err != nil {
		return err
	}
	header := q.w.Header()
	if sum != nil {
		header["Content-MD5"] = []string{base64.StdEncoding.EncodeToString(sum)}
	}
	header["x-ms-request-server-encrypted"] = []string{"false"}
	q.w.WriteHeader(http.StatusCreated)
	return nil
}

// blockID decodes the id of a block. A plus that was not escaped reached us as a space.
func blockID(text string) (string, error) {
	id, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, " ", "+"))
	if err != nil || len(id) == 0 || len(id) > 64 {
		return "", errBlockID
	}
	return string(id), nil
}

// blockSize is more than one row of a block list takes.
const blockSize = 160

func (h *Head) putBlockList(q *request) error {
	limits := h.cfg.Store.Limits()
	r, _, err := q.body(int64(limits.Blocks)*blockSize + 1024)
	if err != nil {
		return err
	}
	p, err := q.properties()
	if err != nil {
		return err
	}
	if err := h.condition(q); err != nil {
		return err
	}
	ids, err := parseBlockList(r, limits.Blocks)
	r.done() // the list may end before the body
	if err != nil {
		return err
	}
	i, err := h.cfg.Store.Commit(q.Context(), q.name, ids, p)
	if err != nil {
		return err
	}
	h.created(q, i)
	return nil
}

// parseBlockList reads the ids of <BlockList>, at most limit. Where a block is to be looked for says
// nothing here: only staged blocks are kept.
func parseBlockList(r io.Reader, limit int) ([]string, error) {
	d := xml.NewDecoder(r)
	d.Strict = true
	var ids []string
	var text strings.Builder
	for depth := 0; ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && depth == 0 {
			return nil, errXML // no list at all
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errXML, err)
		}
		switch t := t.(type) {
		case xml.Directive: // a document type could define entities; nobody sends one
			return nil, errXML
		case xml.StartElement:
			depth++
			switch name := t.Name.Local; {
			case depth == 1 && name == "BlockList":
			case depth == 2 && (name == "Latest" || name == "Uncommitted" || name == "Committed"):
				if len(ids) >= limit {
					return nil, blob.ErrTooLarge
				}
				text.Reset()
			default:
				return nil, errXML
			}
		case xml.CharData:
			if depth == 2 {
				text.Write(t)
			}
		case xml.EndElement:
			depth--
			if depth == 0 {
				return ids, nil
			}
			id, err := blockID(strings.TrimSpace(text.String()))
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
	}
}

func (h *Head) get(q *request) error {
	i, err := h.cfg.Store.Info(q.Context(), q.name)
	if err != nil {
		return err
	}
	header := q.w.Header()
	for name, value := range map[string]string{
		"ETag": i.ETag, "Last-Modified": i.Modified.Format(http.TimeFormat), "Accept-Ranges": "bytes",
		"Content-Type": i.ContentType, "Content-Encoding": i.ContentEncoding, "Content-Language": i.ContentLanguage,
		"Content-Disposition": i.ContentDisposition, "Cache-Control": i.CacheControl,
		"x-ms-blob-type": "BlockBlob", "x-ms-creation-time": i.Modified.Format(http.TimeFormat),
		"x-ms-lease-status": "unlocked", "x-ms-lease-state": "available", "x-ms-server-encrypted": "false",
	} {
		if value != "" {
			header[name] = []string{value}
		}
	}
	// What a device sent never runs in a browser that a person reads it with.
	header["X-Content-Type-Options"] = []string{"nosniff"}
	header["Content-Security-Policy"] = []string{"sandbox; default-src 'none'"}
	for name, value := range i.Metadata {
		header["x-ms-meta-"+name] = []string{value}
	}
	if match := q.Header.Get("If-Match"); match != "" && match != "*" && match != i.ETag {
		return errMatch
	}
	if none := q.Header.Get("If-None-Match"); none == "*" || none != "" && none == i.ETag {
		q.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	sum := base64.StdEncoding.EncodeToString(i.MD5)
	from, n, part := int64(0), i.Size, false
	if text := byteRange(q.Header); text != "" {
		if from, n, err = parseRange(text, i.Size); err != nil {
			header["Content-Range"] = []string{fmt.Sprintf("bytes */%d", i.Size)}
			return err
		}
		part = true
		header["Content-Range"] = []string{fmt.Sprintf("bytes %d-%d/%d", from, from+n-1, i.Size)}
		header["x-ms-blob-content-md5"] = []string{sum}
	} else if len(i.MD5) > 0 {
		header["Content-MD5"] = []string{sum}
	}
	header["Content-Length"] = []string{strconv.FormatInt(n, 10)}
	status := http.StatusOK
	if part {
		status = http.StatusPartialContent
	}
	if q.Method == http.MethodHead {
		q.w.WriteHeader(http.StatusOK)
		return nil
	}
	r, err := h.cfg.Store.Read(q.Context(), q.name, from, n)
	if err != nil {
		return err
	}
	defer r.Close()
	q.w.WriteHeader(status)
	c := http.NewResponseController(q.w)
	if _, err := io.Copy(downstream{q.w, c}, r); err != nil {
		// Half an answer cannot be taken back: the connection says that it is not whole.
		h.cfg.Logger.InfoContext(q.Context(), "blob not sent whole", "head", "blob", "remote", q.RemoteAddr, "err", err)
		panic(http.ErrAbortHandler)
	}
	_ = c.SetWriteDeadline(time.Time{})
	return nil
}

// downstream is an answer that must keep going.
type downstream struct {
	w io.Writer
	c *http.ResponseController
}

func (d downstream) Write(p []byte) (int, error) {
	_ = d.c.SetWriteDeadline(time.Now().Add(patience))
	return d.w.Write(p)
}

// byteRange is the range asked for; Azure's own header goes before the standard one.
func byteRange(h http.Header) string {
	if v := h.Get("x-ms-range"); v != "" {
		return v
	}
	return h.Get("Range")
}

// parseRange reads bytes=a-b or bytes=a-, the two forms that storage clients send.
func parseRange(text string, size int64) (from, n int64, err error) {
	spec, ok := strings.CutPrefix(text, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	a, errA := strconv.ParseUint(first, 10, 62)
	if !ok || !dash || errA != nil || int64(a) >= size {
		return 0, 0, errRange
	}
	end := size - 1
	if last != "" {
		b, err := strconv.ParseUint(last, 10, 62)
		if err != nil || b < a {
			return 0, 0, errRange
		}
		end = min(end, int64(b))
	}
	return int64(a), end - int64(a) + 1, nil
}

func (h *Head) remove(q *request) error {
	if err := h.cfg.Store.Delete(q.Context(), q.name); err != nil {
		return err
	}
	q.w.Header()["x-ms-delete-type-permanent"] = []string{"true"}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}
