package azsphere

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sdk/sphere"
)

func (t *tool) login() *cobra.Command {
	var browser, device, stdin bool
	var username string
	c := &cobra.Command{
		Use:   "login",
		Short: "Sign in",
		Long: `Sign in to a server and remember it: the commands that follow go there, as who signed in,
until "logout". Tokens are kept where only you may read them, and are renewed by themselves.

A browser is opened where there is a display. Without one, a code is shown that is typed on
the server's sign-in page, on any machine. Local accounts can give their password to this
command, too (--username).

The server is named by --server and, when its certificate is below a CA of its own, --ca. An
installation on this machine needs neither: its data folder knows both.`,
		Example: `  azsphere login
  azsphere login --server https://sphere.plant.example --ca plant-ca.pem
  azsphere login --use-device-code
  azsphere login --username ada@plant.example --password-stdin < password.txt`,
	}
	f := c.Flags()
	f.BoolVar(&browser, "use-browser", false, "open a browser, even without a display that is known of")
	f.BoolVar(&device, "use-device-code", false, "show a code to type on the sign-in page")
	f.StringVarP(&username, "username", "u", "", "mail address of a local account; its password is asked for")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input, up to the end of its line")
	c.MarkFlagsMutuallyExclusive("use-browser", "use-device-code", "username")
	return t.make(command{Command: c, server: true, do: func(r *run) error {
		if stdin && username == "" {
			return misuse("--password-stdin wants --username")
		}
		s, err := r.find()
		if err != nil {
			return err
		}
		signIn, err := s.signIn()
		if err != nil {
			return err
		}
		ctx := r.Context()
		var got sphere.Tokens
		switch {
		case username != "":
			password, perr := r.password("Password of "+username+": ", stdin)
			if perr != nil {
				return perr
			}
			p, perr := s.typist(username, password)
			if perr != nil {
				return perr
			}
			got, err = signIn.Browser(ctx, func(address string) error { return p.show(ctx, address) })
		case device, !browser && !display():
			got, err = signIn.DeviceCode(ctx, func(d sphere.DeviceCode) error {
				r.note("Open %s in any browser and type this code:\n\n  %s\n", d.VerificationURL, d.UserCode)
				return nil
			})
		default:
			got, err = signIn.Browser(ctx, func(address string) error {
				r.note("Sign in in the browser. If none opens, open this in one on this machine:\n\n  %s\n", address)
				if err := r.t.browse(ctx, address); err != nil {
					r.note("no browser opens here (%v); --use-device-code needs none", err)
				}
				return nil
			})
		}
		if e, ok := errors.AsType[*sphere.Error](err); ok {
			switch e.Code {
			case "access_denied":
				return errors.New("the sign-in was denied")
			case "expired_token":
				return errors.New("nobody typed the code while it was good; run the command again")
			}
		}
		if err != nil {
			return err
		}
		who, err := signIn.Account(ctx, got.Access)
		if err != nil {
			return err
		}
		var selected string
		if err := changeAccount(func(a *account) error {
			k := a.session(s.url)
			k.Tokens = got
			if k.User != who.Mail {
				k.Tenant, k.TenantName = "", "" // somebody else's
			}
			k.CA, k.User = s.ca, who.Mail
			a.Current, selected = s.url, k.TenantName
			return nil
		}); err != nil {
			return err
		}
		if selected == "" {
			r.note("no tenant is selected; see them with: %s", r.hint("tenant list"))
		}
		return r.say(struct {
			Server string `json:"server"`
			User   string `json:"user"`
		}{s.url, who.Mail}, "Signed in to %s as %s", s.url, who.Mail)
	}})
}

// display reports whether a browser can be shown here.
func display() bool {
	return runtime.GOOS == "darwin" || os.Getenv("BROWSER") != "" || os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
}

// browse opens an address in the user's browser.
func browse(ctx context.Context, address string) error {
	program := "xdg-open"
	if runtime.GOOS == "darwin" {
		program = "open"
	}
	if b := os.Getenv("BROWSER"); b != "" {
		program, _, _ = strings.Cut(b, ":")
	}
	c := exec.CommandContext(ctx, program, address)
	if err := c.Start(); err != nil {
		return err
	}
	go func() { _ = c.Wait() }() // it may outlive us; what it says of itself is of no use here
	return nil
}

var (
	hiddenField = regexp.MustCompile(`name="flow" value="([^"]+)"`)
	problemText = regexp.MustCompile(`role="alert">([^<]+)<`)
)

// maxPage bounds what is read of a page.
const maxPage = 1 << 20

// typist goes through the sign-in page as a browser would, with a password. OAuth has no call that takes passwords any more (RFC 9700
// §2.4), and this way a password meets nothing but the server's own page.
type typist struct {
	url      string
	back     *url.URL // where the program waits: the one place a redirect may lead to
	http     *http.Client
	mail     string
	password secret.Secret
}

func (s *server) typist(mail string, password secret.Secret) (*typist, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	p := &typist{url: s.url, mail: mail, password: password}
	p.http = &http.Client{
		Jar: jar, Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: s.tls, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			if !p.arrived(req) {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return p, nil
}

// arrived reports whether a request is to where the program waits.
func (p *typist) arrived(req *http.Request) bool {
	return p.back != nil && req.Method == http.MethodGet && req.URL.Scheme == p.back.Scheme && req.URL.Host == p.back.Host && req.URL.Path == p.back.Path
}

// show is what a person does with an address: open it, type, and be sent to the program that waits.
func (p *typist) show(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	if p.back, err = url.Parse(u.Query().Get("redirect_uri")); err != nil {
		return err
	}
	got, err := p.get(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	flow := hiddenField.FindStringSubmatch(got.body)
	if flow == nil {
		return p.says(got)
	}
	got, err = p.get(ctx, http.MethodPost, p.url+"/signin/continue", url.Values{
		"flow": {html.UnescapeString(flow[1])}, "mail": {p.mail}, "password": {string(p.password.Reveal())},
	})
	if err != nil {
		return err
	}
	if !p.arrived(got.of) {
		return p.says(got)
	}
	return nil
}

// page is what a browser shows.
type page struct {
	of                       *http.Request // after redirects
	status, retryAfter, body string
}

func (p *typist) get(ctx context.Context, method, address string, form url.Values) (page, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return page{}, errors.New("the sign-in page has no address")
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := p.http.Do(req)
	if err != nil {
		return page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	return page{res.Request, res.Status, res.Header.Get("Retry-After"), string(body)}, err
}

// says is the problem that a page shows.
func (p *typist) says(got page) error {
	m := problemText.FindStringSubmatch(got.body)
	if m == nil {
		return fmt.Errorf("%s has no page that takes a password (it answered %s); use --use-device-code", p.url, got.status)
	}
	text := strings.TrimSuffix(html.UnescapeString(m[1]), ".")
	if got.retryAfter != "" {
		text += "; try again in " + got.retryAfter + " s"
	}
	return errors.New(strings.ToLower(text[:1]) + text[1:])
}

// maxPassword is more than sign-in takes.
const maxPassword = 4 << 10

// password reads one from standard input or from whoever sits at the terminal.
func (r *run) password(prompt string, stdin bool) (secret.Secret, error) {
	if !stdin {
		b, err := r.t.secret(r, prompt)
		return secret.New(b), err
	}
	line, err := readLine(r.InOrStdin(), maxPassword)
	if err != nil {
		return secret.Secret{}, err
	}
	if line == "" {
		return secret.Secret{}, misuse("standard input holds no password")
	}
	return secret.New([]byte(line)), nil
}

// readLine reads up to the end of a line, and nothing beyond it.
func readLine(from io.Reader, limit int) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < limit; {
		n, err := from.Read(b)
		if n == 1 {
			if b[0] == '\n' {
				break
			}
			line = append(line, b[0])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSuffix(string(line), "\r"), nil
}

// terminal reports whether somebody types the standard input.
func (r *run) terminal() bool {
	return r.InOrStdin() == os.Stdin && term.IsTerminal(int(os.Stdin.Fd()))
}

// readSecret asks at the terminal, without showing what is typed.
func readSecret(r *run, prompt string) ([]byte, error) {
	if !r.terminal() {
		return nil, misuse("there is no terminal to ask for the password at; give it with --password-stdin")
	}
	fmt.Fprint(r.ErrOrStderr(), prompt)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(r.ErrOrStderr())
	return b, err
}

func (t *tool) logout() *cobra.Command {
	c := &cobra.Command{
		Use:   "logout",
		Short: "Sign out",
		Long: `End the session at the server and forget its tokens. Which server it was and which tenant
was selected is remembered.`,
		Example: `  azsphere logout
  azsphere logout --server https://sphere.plant.example --output json`,
	}
	return t.make(command{Command: c, server: true, do: func(r *run) error {
		s, err := r.find()
		if err != nil {
			return err
		}
		k := r.acc.Servers[s.url]
		if !k.signedIn() {
			return fmt.Errorf("nobody is signed in to %s", s.url)
		}
		signIn, err := s.signIn()
		if err != nil {
			return err
		}
		if err := changeAccount(func(a *account) error {
			a.session(s.url).Tokens = sphere.Tokens{}
			return nil
		}); err != nil {
			return err
		}
		if err := signIn.Logout(r.Context(), k.Tokens.Refresh); err != nil {
			return fmt.Errorf("signed out here, but not at the server, where the session ends by itself: %w", r.explain(err))
		}
		return r.say(struct {
			Server    string `json:"server"`
			SignedOut string `json:"signedOut"`
		}{s.url, k.User}, "%s is signed out of %s", k.User, s.url)
	}})
}

func (t *tool) registerUser() *cobra.Command {
	var mail, invitation string
	var stdin, invite bool
	var days int
	c := &cobra.Command{
		Use:   "register-user",
		Short: "Make an account, or invite somebody to make one",
		Long: `Make a local account. Who may: an administrator of the installation, which is whoever can
read its data folder (--data); whoever has an invitation; and others as the server's
configuration says. People whom an OpenID provider knows need no account of their own.

The new account has no role anywhere: it creates a tenant, or gets a role in one (role add).

With --invite, an administrator gets an invitation to hand over instead: whoever has it
chooses the password.`,
		Example: `  azsphere register-user --new-user ada@plant.example
  azsphere register-user --new-user ada@plant.example --password-stdin < password.txt
  azsphere register-user --new-user bob@plant.example --invite --days 7
  azsphere register-user --new-user bob@plant.example --invitation vi1_...`,
	}
	f := c.Flags()
	f.StringVarP(&mail, "new-user", "u", "", "mail address of the account")
	f.StringVar(&mail, "newuser", "", "")
	_ = f.MarkHidden("newuser") // the spelling of older releases; made in the line above
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input, up to the end of its line")
	f.StringVar(&invitation, "invitation", "", "invitation for this mail address")
	f.BoolVar(&invite, "invite", false, "make an invitation, not an account")
	f.IntVar(&days, "days", 0, "how many days the invitation is good for; the server's default when absent")
	c.MarkFlagsMutuallyExclusive("invite", "invitation")
	c.MarkFlagsMutuallyExclusive("invite", "password-stdin")
	return t.make(command{Command: c, server: true, required: []string{"new-user"}, do: func(r *run) error {
		s, err := r.find()
		if err != nil {
			return err
		}
		signIn, err := s.signIn()
		if err != nil {
			return err
		}
		if s.admin.IsZero() {
			s.localAdmin(r.where.data)
		}
		admin := string(s.admin.Reveal())
		if invite {
			if admin == "" {
				return errors.New("only an administrator of the installation invites; run this where its data folder is, with --data")
			}
			text, err := signIn.Invite(r.Context(), admin, mail, "", days)
			if err != nil {
				return err
			}
			return r.say(struct {
				Mail       string `json:"mail"`
				Invitation string `json:"invitation"`
			}{mail, text}, "%s makes an account with:\n\n  %s", mail, r.hint("register-user --server "+s.url+" --new-user "+mail+" --invitation "+text))
		}
		password, err := r.newPassword(mail, stdin)
		if err != nil {
			return err
		}
		if invitation != "" {
			admin = "" // the invitation is what counts, and is used up
		}
		made, err := signIn.Register(r.Context(), admin, mail, string(password.Reveal()), invitation)
		if err != nil {
			return err
		}
		return r.say(struct {
			ID   string `json:"userId"`
			Mail string `json:"mail"`
		}{made.UserID, made.Mail}, "%s has an account at %s; sign in with: %s", made.Mail, s.url, r.hint("login"))
	}})
}

// localAdmin takes the administrator's token when the default data folder is of this very server.
func (s *server) localAdmin(data string) {
	here := &server{r: s.r}
	if here.local(data, true) == nil && here.url == s.url {
		s.admin = here.admin
	}
}

// newPassword reads one, twice where it is typed.
func (r *run) newPassword(mail string, stdin bool) (secret.Secret, error) {
	p, err := r.password("New password of "+mail+": ", stdin)
	if err != nil || stdin {
		return p, err
	}
	again, err := r.password("The same again: ", false)
	if err == nil && !p.Matches(again.Reveal()) {
		err = errors.New("the two passwords differ")
	}
	return p, err
}

func (t *tool) showUser() *cobra.Command {
	c := &cobra.Command{
		Use:   "show-user",
		Short: "Show who is signed in, and its roles",
		Example: `  azsphere show-user
  azsphere show-user --output json`,
	}
	type roles struct {
		Tenant string        `json:"tenant"`
		Name   string        `json:"tenantName"`
		Roles  []sphere.Role `json:"roles"`
	}
	return t.make(command{Command: c, server: true, do: func(r *run) error {
		client, err := r.client()
		if err != nil {
			return err
		}
		me, err := client.Me(r.Context())
		if err != nil {
			return err
		}
		view := struct {
			Server        string  `json:"server"`
			User          string  `json:"user"`
			Administrator bool    `json:"administrator"`
			Roles         []roles `json:"roles"`
		}{r.server.url, me.UserID, me.Administrator, []roles{}}
		for _, t := range me.Roles {
			view.Roles = append(view.Roles, roles{t.TenantID, t.TenantName, t.RoleNames})
		}
		return r.out(view, func(w io.Writer) error {
			lines(w, "user", me.UserID, "server", r.server.url)
			if me.Administrator {
				lines(w, "administrator", "of the installation")
			}
			for _, t := range view.Roles {
				fmt.Fprintf(w, "%s\t%s\n", t.Name, join(t.Roles))
			}
			return nil
		})
	}})
}
