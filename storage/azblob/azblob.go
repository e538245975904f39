// Package azblob reads and writes files in containers of Azure's Blob REST API, which a URI with a token opens (hub-service §2.7):
// those of this hub's own endpoint, and those of other hosts.
//
// The URI comes from whoever may write the registry, and this server calls what it names. So it goes only where it may: to its own
// endpoint, to loopback (where emulators are), and to the hosts that the operator lists. It speaks HTTPS (to loopback HTTP, too),
// follows no redirect, never connects to addresses of the link (where clouds keep their metadata) and, for a host of the list, not
// to loopback either; and it tells no more of a refusal than its status and Azure's word for it.
//
// A Client is safe for concurrent use.
package azblob

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/transfer"
)

// Own is the endpoint of this hub.
type Own struct {
	Host    string      // host[:port] in URIs
	Address string      // host:port where it is reached from here
	TLS     *tls.Config // trusts its certificate
	// Grant returns a token for a container of the endpoint, as the query of a URL, for jobs that come with the hub's own right;
	// false when there is no such container.
	Grant func(container string) (query string, ok bool)
}

// Config of a client.
type Config struct {
	Own *Own // nil: there is none
	// Hosts are those it may go to: a host, or *.domain for every host below a domain, either with :port when that is not 443.
	Hosts []string
	TLS   *tls.Config // for other hosts; nil: the system's roots
}

// Client opens containers.
type Client struct {
	cfg   Config
	own   *http.Client // nil: no own endpoint
	named *http.Client // to hosts of the list
	local *http.Client // to loopback
}

var _ transfer.Blobs = (*Client)(nil)

// Bounds of one request.
const (
	dialTimeout   = 10 * time.Second
	headerTimeout = time.Minute     // until the answer begins
	patience      = time.Minute     // how long a body may stand still
	maxAnswer     = 64 << 10        // of what is read of an answer that is no file
	maxFile       = int64(10) << 30 // bytes of a file
	blockSize     = 4 << 20
	maxBlocks     = 50_000
	version       = "2021-08-06" // of the API
)

// New returns a client. It does not connect.
func New(cfg Config) (*Client, error) {
	for _, h := range cfg.Hosts {
		if err := CheckHost(h); err != nil {
			return nil, err
		}
	}
	c := &Client{cfg: cfg, named: client(cfg.TLS, dialer(refuseLocal)), local: client(cfg.TLS, dialer(refuseRemote))}
	if o := cfg.Own; o != nil {
		d := &net.Dialer{Timeout: dialTimeout}
		c.own = client(o.TLS, func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, o.Address)
		})
	}
	return c, nil
}

// Close ends idle connections.
func (c *Client) Close() {
	for _, h := range []*http.Client{c.own, c.named, c.local} {
		if h != nil {
			h.CloseIdleConnections()
		}
	}
}

func client(cfg *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: cfg.Clone(), TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: headerTimeout,
			DisableCompression: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: a body that stands still ends its own connection only
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dialer judges the address a name turned out to have, so that no name leads where no URI may.
func dialer(refuse func(netip.Addr) bool) func(context.Context, string, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if refuse(ap.Addr().Unmap()) {
			return errAddress
		}
		return nil
	}}
	return d.DialContext
}

var errAddress = fault.New(fault.Invalid, "the container's host has an address this hub does not go to")

func refuseLocal(a netip.Addr) bool {
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsInterfaceLocalMulticast()
}

func refuseRemote(a netip.Addr) bool { return !a.IsLoopback() }

// hostPattern is a name, or *. before one, with a port or without.
var hostPattern = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(:[0-9]{1,5})?$`)

// CheckHost judges an entry of Config.Hosts.
func CheckHost(pattern string) error {
	if !hostPattern.MatchString(pattern) {
		return fmt.Errorf("%q is neither a host nor *.domain", pattern)
	}
	return nil
}

// allows reports whether a host[:port] is one of a list. Both may leave out 443.
func allows(hosts []string, host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, ":443"))
	for _, p := range hosts {
		p = strings.ToLower(strings.TrimSuffix(p, ":443"))
		domain, below := strings.CutPrefix(p, "*")
		if p == host || below && strings.HasSuffix(host, domain) && len(host) > len(domain) {
			return true
		}
	}
	return false
}

// Open implements transfer.Blobs.
func (c *Client) Open(uri string, identity bool) (transfer.Container, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the URI of a container cannot be read") // the error would show its token
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	switch {
	case u.Host == "" || u.Opaque != "" || u.User != nil || u.Fragment != "":
		return nil, fault.New(fault.Invalid, "the URI of a container has the form https://host/container?token")
	case path == "" || strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./") || strings.Contains(path, "//"):
		return nil, fault.New(fault.Invalid, "the URI names no container")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fault.New(fault.Invalid, "the URI of a container begins with https")
	}
	k := &container{base: url.URL{Scheme: u.Scheme, Host: u.Host}, path: path, query: u.RawQuery}
	ip, ipErr := netip.ParseAddr(u.Hostname())
	loopback := ipErr == nil && ip.Unmap().IsLoopback() || strings.EqualFold(u.Hostname(), "localhost")
	switch o := c.cfg.Own; {
	case o != nil && u.Scheme == "https" && allows([]string{o.Host}, u.Host):
		k.client = c.own
		if identity {
			name, err := url.PathUnescape(strings.TrimPrefix(path, "/"))
			query, ok := "", false
			if err == nil {
				query, ok = o.Grant(name)
			}
			if !ok {
				return nil, fault.New(fault.Invalid, "the hub has no such container")
			}
			k.query = query
		}
	case identity:
		return nil, fault.New(fault.Invalid, "identityBased opens the hub's own containers only; for others give a URI with a token")
	case loopback:
		k.client = c.local
	case u.Scheme == "https" && allows(c.cfg.Hosts, u.Host):
		k.client = c.named
	default:
		return nil, fault.New(fault.Invalid, "this hub may not go to %s; its operator lists the hosts of containers in blob_hosts", short(u.Host))
	}
	if q, err := url.ParseQuery(k.query); err != nil || q.Get("sig") == "" {
		return nil, fault.New(fault.Invalid, "the URI of the container holds no shared access signature")
	}
	return k, nil
}

func short(s string) string { return s[:min(len(s), 100)] }

// container is one that a token opens.
type container struct {
	client *http.Client
	base   url.URL
	path   string // escaped
	query  string
}

// request calls for a blob. body is nil, or holds all there is.
func (k *container) request(ctx context.Context, method, name, more string, body []byte, header map[string]string) (*http.Response, error) {
	u := k.base
	u.Path, u.RawPath = "", ""
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	target := u.String() + k.path + "/" + strings.Join(parts, "/") + "?"
	if more != "" {
		target += more + "&"
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target+k.query, r)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the URI of the container cannot be used")
	}
	req.Header.Set("x-ms-version", version)
	for n, v := range header {
		req.Header.Set(n, v)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URI, which holds the token
		}
		if fault.Is(err, fault.Invalid) {
			return nil, errAddress
		}
		return nil, fault.Wrap(fault.BadDeviceResponse, err, "the container's host cannot be reached")
	}
	return resp, nil
}

// word is what an Azure error code looks like.
var word = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// refusal is the error of an answer that is no success.
func refusal(resp *http.Response, name string) error {
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be used again
	text := strconv.Itoa(resp.StatusCode)
	if code := resp.Header.Get("x-ms-error-code"); word.MatchString(code) {
		text += " " + code
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		return fault.New(fault.NotFound, "%s is not in the container (%s)", name, text)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.New(fault.Forbidden, "the token of the container does not allow what is needed with %s (%s)", name, text)
	}
	return fault.New(fault.BadDeviceResponse, "the container's host answered %s for %s", text, name)
}

// watched is a body that must keep coming.
type watched struct {
	io.ReadCloser
	left  int64
	timer *time.Timer
	stop  context.CancelFunc
	ctx   context.Context
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(patience)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	if w.left -= int64(n); w.left < 0 {
		return 0, fault.New(fault.TooLarge, "the file is over %d bytes", maxFile)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if w.ctx.Err() != nil {
			return n, context.Cause(w.ctx)
		}
		err = fault.Wrap(fault.BadDeviceResponse, err, "the file broke off")
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.stop()
	return w.ReadCloser.Close()
}

// Get implements transfer.Container.
func (k *container) Get(parent context.Context, name string) (io.ReadCloser, int64, error) {
	ctx, stop := context.WithCancel(parent)
	resp, err := k.request(ctx, http.MethodGet, name, "", nil, nil)
	if err != nil {
		stop()
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		err := refusal(resp, name)
		resp.Body.Close()
		stop()
		return nil, 0, err
	}
	timer := time.AfterFunc(patience, stop)
	return &watched{ReadCloser: resp.Body, left: maxFile, timer: timer, stop: stop, ctx: parent}, resp.ContentLength, nil
}

// Put implements transfer.Container.
func (k *container) Put(ctx context.Context, name string) (transfer.Upload, error) {
	return &upload{ctx: ctx, k: k, name: name, session: rand.Text()[:10]}, nil
}

// upload sends a small file whole, and a larger one in blocks that a list puts together at the end. Blocks of an upload that is
// given up are the store's to forget.
type upload struct {
	ctx     context.Context
	k       *container
	name    string
	session string // keeps the blocks of two writers apart
	buf     []byte
	ids     []string
	err     error
	over    bool
}

func (u *upload) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && u.err == nil {
		m := min(len(p), blockSize-len(u.buf))
		u.buf, p = append(u.buf, p[:m]...), p[m:]
		if len(u.buf) == blockSize {
			u.block()
		}
	}
	return n, u.err
}

func (u *upload) block() {
	if len(u.ids) == maxBlocks {
		u.err = fault.New(fault.TooLarge, "the file has more than %d blocks", maxBlocks)
		return
	}
	id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%06d", u.session, len(u.ids)))
	u.err = u.send("comp=block&blockid="+url.QueryEscape(id), u.buf, nil)
	u.ids, u.buf = append(u.ids, id), u.buf[:0]
}

// sendTimeout bounds one request of an upload.
const sendTimeout = 5 * time.Minute

func (u *upload) send(more string, body []byte, header map[string]string) error {
	ctx, cancel := context.WithTimeout(u.ctx, sendTimeout)
	defer cancel()
	if body == nil {
		body = []byte{}
	}
	resp, err := u.k.request(ctx, http.MethodPut, u.name, more, body, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return refusal(resp, u.name)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)
	return nil
}

// Commit implements transfer.Upload.
func (u *upload) Commit() error {
	if u.over || u.err != nil {
		return u.err
	}
	u.over = true
	header := map[string]string{"x-ms-blob-content-type": "text/plain; charset=utf-8"}
	if len(u.ids) == 0 {
		header["x-ms-blob-type"] = "BlockBlob"
		header["Content-Type"] = "text/plain; charset=utf-8"
		u.err = u.send("", u.buf, header)
		return u.err
	}
	if len(u.buf) > 0 {
		if u.block(); u.err != nil {
			return u.err
		}
	}
	list, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string
	}{Latest: u.ids})
	if err != nil {
		return err
	}
	u.err = u.send("comp=blocklist", append([]byte(xml.Header), list...), header)
	return u.err
}

// Abort implements transfer.Upload.
func (u *upload) Abort() { u.over = true }
