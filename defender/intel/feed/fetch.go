package feed

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/format"
	"github.com/vauban-iot/vauban/internal/outward"
)

const (
	fetchTimeout  = 15 * time.Minute
	headerTimeout = 30 * time.Second
	maxRedirects  = 5
	maxPages      = 10_000
	maxManifest   = 64 << 20
	maxEvent      = 64 << 20
)

var (
	errUnchanged = errors.New("unchanged")
	errTooLarge  = errors.New("more bytes than the feed may have (maxBytes)")
)

// statusError is an answer that is no success.
type statusError struct {
	status int
	after  time.Duration // of Retry-After
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status))
}

// fetcher reads one feed once.
type fetcher struct {
	cfg    Config
	state  State
	root   string       // folder of files
	client *http.Client // nil: a file
	left   int64        // bytes that may still come, unpacked
	read   int64
}

func newFetcher(f *Feed, root string) (*fetcher, error) {
	x := &fetcher{cfg: f.Config, state: f.State, root: root, left: f.MaxBytes}
	if x.left == 0 {
		x.left = defaultBytes
	}
	if x.cfg.URL == "" {
		return x, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if x.cfg.CA != "" {
		t.RootCAs = x509.NewCertPool()
		t.RootCAs.AppendCertsFromPEM([]byte(x.cfg.CA))
	}
	x.client = &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			DialContext: outward.Dialer(headerTimeout).DialContext, TLSClientConfig: t, TLSHandshakeTimeout: headerTimeout, ResponseHeaderTimeout: headerTimeout,
			MaxResponseHeaderBytes: 64 << 10, MaxConnsPerHost: 2, ForceAttemptHTTP2: true,
		},
		CheckRedirect: x.redirect,
	}
	return x, nil
}

func (x *fetcher) close() {
	if x.client != nil {
		x.client.CloseIdleConnections()
	}
}

// redirect follows to other places, but neither from TLS to none, nor with secrets to another host.
func (x *fetcher) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("a redirect from https to http is not followed")
	}
	if req.URL.Host != via[0].URL.Host {
		for name := range x.cfg.Headers {
			req.Header.Del(name)
		}
		req.Header.Del("Authorization")
	}
	return nil
}

func (x *fetcher) get(ctx context.Context, address, accept string, conditional bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "vauban-intel")
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	for name, value := range x.cfg.Headers {
		req.Header.Set(name, value)
	}
	switch {
	case x.cfg.Token != "":
		req.Header.Set("Authorization", "Bearer "+x.cfg.Token)
	case x.cfg.User != "":
		req.SetBasicAuth(x.cfg.User, x.cfg.Password)
	}
	if conditional && x.state.Revision != 0 {
		if x.state.ETag != "" {
			req.Header.Set("If-None-Match", x.state.ETag)
		}
		if x.state.Modified != "" {
			req.Header.Set("If-Modified-Since", x.state.Modified)
		}
	}
	res, err := x.client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		if conditional {
			x.state.ETag, x.state.Modified = short(res.Header.Get("ETag")), short(res.Header.Get("Last-Modified"))
		}
		return res, nil
	}
	res.Body.Close()
	if res.StatusCode == http.StatusNotModified && conditional {
		return nil, errUnchanged
	}
	e := &statusError{status: res.StatusCode}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 && s < 7*24*3600 {
		e.after = time.Duration(s) * time.Second
	}
	return nil, e
}

func short(header string) string {
	if len(header) > 256 {
		return ""
	}
	return header
}

// limited counts what is read against what may come.
type limited struct {
	x *fetcher
	r io.Reader
}

func (l limited) Read(p []byte) (int, error) {
	if l.x.left <= 0 {
		// One byte more tells the end from an endless body.
		if n, err := l.r.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, errTooLarge
	}
	if int64(len(p)) > l.x.left {
		p = p[:l.x.left]
	}
	n, err := l.r.Read(p)
	l.x.left -= int64(n)
	l.x.read += int64(n)
	return n, err
}

// unpacked reads what a body holds: itself, or what is in a gzip or zip file. All that comes out counts against the limit.
func (x *fetcher) unpacked(r io.Reader, use func(io.Reader) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		defer z.Close()
		return use(limited{x, z})
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return x.unzipped(in, use)
	}
	return use(limited{x, in})
}

// unzipped needs the whole file first; it lies in a temporary one. The first file in it is the feed.
func (x *fetcher) unzipped(r io.Reader, use func(io.Reader) error) error {
	f, err := os.CreateTemp("", "vauban-feed-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	size, err := io.Copy(f, io.LimitReader(r, x.left+1))
	if err != nil {
		return err
	}
	if size > x.left {
		return errTooLarge
	}
	z, err := zip.NewReader(f, size)
	if err != nil {
		return err
	}
	for _, e := range z.File {
		if e.FileInfo().IsDir() {
			continue
		}
		content, err := e.Open()
		if err != nil {
			return err
		}
		defer content.Close()
		return use(limited{x, content})
	}
	return errors.New("the zip file holds no file")
}

// fetch reads the feed into a block. old is what it gave before; nil: nothing. errUnchanged: that is still so.
func (x *fetcher) fetch(ctx context.Context, old *intel.Block, version string) (*intel.Block, error) {
	b := intel.NewBuilder(x.cfg.source(version))
	var err error
	switch {
	case x.cfg.Format == format.TAXII:
		err = x.taxii(ctx, b, old)
	case x.cfg.Format == format.MISP:
		err = x.misp(ctx, b, old)
	case x.client == nil:
		err = x.file(b)
	default:
		err = x.document(ctx, b)
	}
	if err != nil {
		return nil, err
	}
	if b.Len() == 0 && b.BadLines > 0 {
		return nil, fmt.Errorf("there is no indicator in it, and %d lines or objects that cannot be read; the first: %s", b.BadLines, b.Warnings[0])
	}
	x.state.BadLines, x.state.Unsupported, x.state.Unsure, x.state.Revoked, x.state.Bytes = b.BadLines, b.Unsupported, b.Unsure, b.Revoked, x.read
	x.state.Problems = nil
	for _, w := range b.Warnings[:min(len(b.Warnings), 10)] {
		x.state.Problems = append(x.state.Problems, w.String())
	}
	return b.Block(), nil
}

func (x *fetcher) document(ctx context.Context, b *intel.Builder) error {
	res, err := x.get(ctx, x.cfg.URL, "", true)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return x.unpacked(res.Body, func(r io.Reader) error { return format.Read(x.cfg.Format, r, b) })
}

// open opens a file below the folder of lists; links that lead out of it are not followed.
func (x *fetcher) open(name string) (*os.File, os.FileInfo, error) {
	root, err := os.OpenRoot(x.root)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	info, err := root.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no regular file", name)
	}
	f, err := root.Open(name)
	return f, info, err
}

func (x *fetcher) file(b *intel.Builder) error {
	f, info, err := x.open(x.cfg.File)
	if err != nil {
		return err
	}
	defer f.Close()
	stamp := fmt.Sprintf("%d-%d", info.ModTime().UnixNano(), info.Size())
	if stamp == x.state.ETag && x.state.Revision != 0 {
		return errUnchanged
	}
	x.state.ETag = stamp
	return x.unpacked(f, func(r io.Reader) error { return format.Read(x.cfg.Format, r, b) })
}

// keep copies indicators and groups of old for which want says so.
func keep(b *intel.Builder, old *intel.Block, want func(group string) bool) {
	if old == nil {
		return
	}
	for it := range old.Each {
		if want(it.Ref) {
			b.Add(it)
		}
	}
	for g, v := range old.Groups() {
		if want(g) {
			b.Group(g, v)
		}
	}
}

const taxiiType = "application/taxii+json;version=2.1"

// taxii reads a collection of TAXII 2.1 from where the last pass ended, page by page (section 5.4). What it has of an object before is replaced by the newest version.
func (x *fetcher) taxii(ctx context.Context, b *intel.Builder, old *intel.Block) error {
	base := strings.TrimSuffix(strings.TrimSuffix(x.cfg.URL, "/"), "/objects") + "/objects/"
	if old == nil {
		x.state.Cursor = ""
	}
	cursor, next := x.state.Cursor, ""
	seen := make(map[string]bool)
	newest := make(map[string]*format.Object)
	for page := 0; ; page++ {
		if page == maxPages {
			return fmt.Errorf("the collection has more than %d pages", maxPages)
		}
		q := url.Values{"match[type]": {"indicator"}, "limit": {"1000"}}
		if x.state.Cursor != "" {
			q.Set("added_after", x.state.Cursor)
		}
		if next != "" {
			q.Set("next", next)
		}
		more, after, last, err := x.taxiiPage(ctx, base+"?"+q.Encode(), b, newest)
		if err != nil {
			return err
		}
		if last != "" {
			cursor = last
		}
		if !more {
			break
		}
		if after == "" || seen[after] {
			return errors.New("the collection says that there is more, and not where")
		}
		seen[after], next = true, after
	}
	x.state.Cursor = cursor
	if len(newest) == 0 && old != nil {
		return errUnchanged
	}
	keep(b, old, func(id string) bool {
		o := newest[id]
		if o != nil && old != nil && format.Newer(old.Groups()[id], o.Version()) {
			delete(newest, id) // the page had an old version
			o = nil
		}
		return o == nil
	})
	for id, o := range newest {
		b.Group(id, o.Version())
		format.AddObject(b, o)
	}
	return nil
}

func (x *fetcher) taxiiPage(ctx context.Context, address string, b *intel.Builder, newest map[string]*format.Object) (more bool, next, last string, err error) {
	res, err := x.get(ctx, address, taxiiType, false)
	if err != nil {
		return false, "", "", err
	}
	defer res.Body.Close()
	if t := res.Header.Get("Content-Type"); !strings.HasPrefix(strings.ReplaceAll(t, " ", ""), "application/taxii+json") {
		return false, "", "", fmt.Errorf("the server sends %q, not %s", short(t), taxiiType)
	}
	more, next, err = format.ReadEnvelope(limited{x, res.Body}, b, func(o *format.Object) {
		if have := newest[o.ID]; have == nil || format.Newer(o.Version(), have.Version()) {
			newest[o.ID] = o
		}
	})
	return more, next, short(res.Header.Get("X-TAXII-Date-Added-Last")), err
}

// misp reads a folder of MISP: the manifest, and the events that are new or changed, whose files must have the hash that the manifest gives.
func (x *fetcher) misp(ctx context.Context, b *intel.Builder, old *intel.Block) error {
	var manifest map[string]format.MISPEntry
	read := func(r io.Reader) (err error) {
		manifest, err = format.ReadManifest(io.LimitReader(r, maxManifest))
		return err
	}
	if err := x.part(ctx, "manifest.json", true, func(r io.Reader) error { return x.unpacked(r, read) }); err != nil {
		return err
	}
	var groups map[string]string
	if old != nil {
		groups = old.Groups()
	}
	current := func(uuid string) bool {
		e, ok := manifest[uuid]
		return ok && groups[uuid] == format.Unix(e.Timestamp)
	}
	keep(b, old, current)
	for uuid, e := range manifest {
		if current(uuid) {
			continue
		}
		err := x.part(ctx, uuid+".json", false, func(r io.Reader) error {
			sum := sha256.New()
			body, err := io.ReadAll(io.TeeReader(limited{x, io.LimitReader(r, maxEvent)}, sum))
			if err != nil {
				return err
			}
			if got := hex.EncodeToString(sum.Sum(nil)); e.SHA256 != "" && got != e.SHA256 {
				return fmt.Errorf("its SHA-256 is %s, the manifest says %s: someone may have changed it", got, e.SHA256)
			}
			return format.ReadMISP(bytes.NewReader(body), b, uuid)
		})
		if err != nil {
			return fmt.Errorf("event %s: %w", uuid, err)
		}
		b.Group(uuid, format.Unix(e.Timestamp))
	}
	return nil
}

// part opens a file of a folder.
func (x *fetcher) part(ctx context.Context, name string, conditional bool, use func(io.Reader) error) error {
	if x.client == nil {
		f, info, err := x.open(path.Join(x.cfg.File, name))
		if err != nil {
			return err
		}
		defer f.Close()
		if conditional {
			stamp := fmt.Sprintf("%d-%d", info.ModTime().UnixNano(), info.Size())
			if stamp == x.state.ETag && x.state.Revision != 0 {
				return errUnchanged
			}
			x.state.ETag = stamp
		}
		return use(f)
	}
	res, err := x.get(ctx, strings.TrimSuffix(strings.TrimSuffix(x.cfg.URL, "manifest.json"), "/")+"/"+name, "", conditional)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return use(res.Body)
}
