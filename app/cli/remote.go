package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/sdk/service"
)

// remote is the installation a command talks to.
type remote struct {
	conn up.Connection
	tls  *tls.Config
}

func dialRemote(data string) (*remote, error) {
	conn, err := up.LoadConnection(under(data, up.ConnectionFile))
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(conn.CA)
	if errors.Is(err, os.ErrNotExist) { // the folder was moved or mounted elsewhere
		root, err = os.ReadFile(filepath.Join(data, "pki", filepath.Base(conn.CA)))
	}
	if err != nil {
		return nil, fmt.Errorf("the installation's CA cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("%s holds no certificate", conn.CA)
	}
	return &remote{conn: conn, tls: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}, nil
}

func (r *remote) address() string {
	return net.JoinHostPort(r.conn.Hub.Hostname, strconv.Itoa(r.conn.Ports.HTTPS))
}

// hub is a client of the service REST API.
func (r *remote) hub() (*service.Client, error) {
	return service.New(service.Config{ConnectionString: r.conn.Hub.ConnectionString, TLS: r.tls, Address: r.address()})
}

// api calls the operator's API; the caller closes the body.
func (r *remote) api(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	address := strings.TrimSuffix(r.conn.API.URL, "/") + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.conn.API.Token)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: r.tls}}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the installation cannot be reached: %w; is `vauban up` running?", err)
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		data, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what there is of a refusal
		var e struct {
			Error struct{ Message string } `json:"error"`
		}
		if json.Unmarshal(data, &e) == nil && e.Error.Message != "" {
			return nil, errors.New(e.Error.Message)
		}
		return nil, fmt.Errorf("the installation answered %s", res.Status)
	}
	return res, nil
}
