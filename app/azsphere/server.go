package azsphere

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sdk/sphere"
)

// place is where a command finds its server: by --server, by --data, the one that was signed in to, or the installation in the
// default data folder, in this order.
type place struct {
	url, ca, data string
	c             *cobra.Command
}

func (p *place) flags(c *cobra.Command) {
	p.c = c
	data := os.Getenv("VAUBAN_DATA")
	if data == "" {
		data = "vauban-data"
	}
	f := c.Flags()
	f.StringVar(&p.url, "server", "", "address of the server, https://HOST[:PORT]; the one that was signed in to when absent")
	f.StringVar(&p.ca, "ca", "", "PEM file of the CA that the server's certificate is below; remembered at sign-in")
	f.StringVar(&p.data, "data", data, "data folder of an installation on this machine, whose connection.json says where it is")
}

// server is where a command's calls go.
type server struct {
	r   *run
	url string // https://host[:port]
	ca  string // PEM
	tls *tls.Config
	// admin is the administrator's token of an installation whose connection.json may be read here.
	admin secret.Secret
}

// find finds the server.
func (r *run) find() (*server, error) {
	if r.server != nil {
		return r.server, nil
	}
	a, err := loadAccount()
	if err != nil {
		return nil, err
	}
	r.acc = a
	s := &server{r: r}
	switch {
	case r.where.url != "":
		if r.where.c.Flags().Changed("data") {
			return nil, misuse("give --server or --data, not both")
		}
		if s.url, err = address(r.where.url); err != nil {
			return nil, err
		}
	case r.where.c.Flags().Changed("data"), a.Current == "":
		if err := s.local(r.where.data, r.where.c.Flags().Changed("data")); err != nil {
			return nil, err
		}
	default:
		s.url = a.Current
	}
	if known := a.Servers[s.url]; s.ca == "" && known != nil {
		s.ca = known.CA
	}
	if r.where.ca != "" {
		pem, err := os.ReadFile(r.where.ca)
		if err != nil {
			return nil, fmt.Errorf("the CA cannot be read: %w", err)
		}
		s.ca = string(pem)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.ca != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(s.ca)) {
			return nil, errors.New("the file of --ca holds no certificate in PEM")
		}
	}
	s.tls = cfg
	r.server = s
	return s, nil
}

// local is the installation of a data folder.
func (s *server) local(data string, asked bool) error {
	conn, err := up.LoadConnection(filepath.Join(data, up.ConnectionFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !asked {
			return fmt.Errorf("which server? run: %s (or give --data, the folder of an installation on this machine)", s.r.hint("login --server https://HOST --ca FILE"))
		}
		return err
	}
	if s.url, err = address(conn.API.URL); err != nil {
		return err
	}
	pem, err := os.ReadFile(conn.CA)
	if errors.Is(err, fs.ErrNotExist) { // the folder was moved or mounted elsewhere
		pem, err = os.ReadFile(filepath.Join(data, "pki", filepath.Base(conn.CA)))
	}
	if err != nil {
		return fmt.Errorf("the installation's CA cannot be read: %w", err)
	}
	s.ca, s.admin = string(pem), secret.New([]byte(conn.API.Token))
	return nil
}

// address is a server's, in the one spelling under which its session is kept.
func address(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", misuse("--server is %q (want https://HOST[:PORT])", text)
	}
	return "https://" + strings.ToLower(strings.TrimSuffix(u.Host, ":443")), nil
}

// client calls the API as whoever signed in.
func (s *server) client() (*sphere.Client, error) {
	if !s.r.acc.Servers[s.url].signedIn() {
		return nil, fmt.Errorf("nobody is signed in to %s; run: %s", s.url, s.r.hint("login"))
	}
	signIn, err := s.signIn()
	if err != nil {
		return nil, err
	}
	return sphere.New(sphere.Config{URL: s.url, TLS: s.tls, Tokens: sphere.NewSession(signIn, keeper{s.url})})
}

func (s *server) signIn() (*sphere.SignIn, error) {
	return sphere.NewSignIn(sphere.Config{URL: s.url, TLS: s.tls})
}

// explain says what to do about an error of a call.
func (r *run) explain(err error) error {
	if err == nil || r.server == nil {
		return err
	}
	at := r.server.url
	if errors.Is(err, sphere.ErrSignedOut) {
		return fmt.Errorf("the session at %s has ended; run: %s", at, r.hint("login"))
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%s shows a certificate of a CA that is not known here; give its CA: %s", at, r.hint("login --server "+at+" --ca FILE"))
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("%s cannot be reached: %w", at, e.Err)
	}
	e, ok := errors.AsType[*sphere.Error](err)
	if !ok {
		return err
	}
	// A command may have said which of many it was: only the refusal itself is put otherwise.
	text := strings.Replace(err.Error(), e.Error(), e.Message, 1)
	switch {
	case e.Status == http.StatusUnauthorized && !strings.Contains(e.Message, "signature"): // which is a device's
		text += "; run: " + r.hint("login")
	case e.Status == http.StatusForbidden && strings.Contains(e.Message, "needs the role"):
		text += "; its Administrators give roles with: " + r.hint("role add")
	case e.Status == http.StatusTooManyRequests && e.RetryAfter > 0:
		text += fmt.Sprintf("; try again in %s", e.RetryAfter)
	case e.Code == "":
		text = fmt.Sprintf("%s answered %d (%s); is it a Vauban server?", at, e.Status, http.StatusText(e.Status))
	}
	return errors.New(text)
}
