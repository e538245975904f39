package signin

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

const (
	maxQuery = 4 << 10
	maxForm  = 16 << 10
	maxState = 512
)

// parameters reads a query or a form in which nothing comes twice (RFC 6749 §3.1).
func parameters(v url.Values) (map[string]string, error) {
	p := make(map[string]string, len(v))
	for name, values := range v {
		if len(values) != 1 {
			return nil, invalid("a parameter comes twice")
		}
		p[name] = values[0]
	}
	return p, nil
}

func query(r *http.Request) (map[string]string, error) {
	if len(r.URL.RawQuery) > maxQuery {
		return nil, invalid("the query is too long")
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query cannot be read")
	}
	return parameters(v)
}

func form(w http.ResponseWriter, r *http.Request) (map[string]string, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, fault.New(fault.TooLarge, "the form is over %d bytes", maxForm)
		}
		return nil, invalid("the form cannot be read")
	}
	return parameters(r.PostForm)
}

// authorize is a program that sends a browser (RFC 6749 §4.1.1).
func (h *Head) authorize(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	f := flow{Request: signin.AuthorizationRequest{Client: q["client_id"], Redirect: q["redirect_uri"], Challenge: q["code_challenge"]}, State: q["state"]}
	if len(f.State) > maxState {
		return invalid("the state is too long")
	}
	client, err := h.core.CheckRequest(f.Request)
	if errors.Is(err, signin.ErrClient) || errors.Is(err, signin.ErrRedirect) {
		return err // nobody is sent to where a stranger says
	}
	f.Client = client.Name
	switch {
	case q["response_type"] != "code":
		return h.back(w, r, f, url.Values{"error": {"unsupported_response_type"}, "error_description": {"response_type must be code"}})
	case err != nil, q["code_challenge_method"] != "S256":
		return h.back(w, r, f, url.Values{"error": {"invalid_request"}, "error_description": {fault.Public(signin.ErrChallenge)}})
	}
	return h.ask(w, r, http.StatusOK, f, "", "")
}

// back sends the browser to the program that waits (RFC 6749 §4.1.2, RFC 9207).
func (h *Head) back(w http.ResponseWriter, r *http.Request, f flow, v url.Values) error {
	if f.State != "" {
		v.Set("state", f.State)
	}
	v.Set("iss", h.core.Issuer())
	sep := "?"
	if strings.Contains(f.Request.Redirect, "?") {
		sep = "&"
	}
	w.Header().Set("Location", f.Request.Redirect+sep+v.Encode())
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// leads is what forms of a flow may lead to beside this origin. A policy cannot name an IPv6 address.
func leads(f flow) string {
	u, err := url.Parse(f.Request.Redirect)
	switch {
	case f.device(), err != nil, u.Scheme == "":
		return ""
	case strings.Contains(u.Host, "["):
		return "http:"
	}
	return u.Scheme + "://" + u.Host
}

// ask shows the sign-in page.
func (h *Head) ask(w http.ResponseWriter, r *http.Request, status int, f flow, mail, problem string) error {
	sealed, err := h.begin(w, r, &f)
	if err != nil {
		return err
	}
	page := frame{Title: "Sign in", Problem: problem, Flow: sealed, Client: f.Client, Mail: mail, From: f.From, Device: f.device(), Local: true}
	if f.device() {
		page.UserCode = signin.ShowUserCode(f.UserCode)
	}
	for _, p := range h.core.Providers() {
		page.Choices = append(page.Choices, choice{p.Title(), providerPath + p.Name() + "?" + url.Values{"flow": {sealed}}.Encode()})
	}
	w.Header().Set("Content-Security-Policy", policy(leads(f)))
	return h.render(w, status, "sign-in", page)
}

// proceed is somebody who types a password, or leaves.
func (h *Head) proceed(w http.ResponseWriter, r *http.Request) error {
	p, err := form(w, r)
	if err != nil {
		return err
	}
	f, err := h.resume(r, p["flow"])
	if err != nil {
		return err
	}
	if p["decision"] == "deny" {
		if f.device() { // nobody proved itself: the request waits for who it is for
			return h.render(w, http.StatusOK, "message", frame{Title: "Not signed in", Text: "You may close this page."})
		}
		return h.back(w, r, f, url.Values{"error": {"access_denied"}})
	}
	who, err := h.core.Authenticate(r.Context(), h.peer(r), p["mail"], secret.New([]byte(p["password"])))
	if err != nil {
		return h.askAgain(w, r, f, p["mail"], err)
	}
	f.Who = who
	if f.device() {
		return h.askConsent(w, r, f)
	}
	return h.finish(w, r, f) // the page named the program, and the password was the consent
}

// askAgain shows the sign-in page with what went wrong.
func (h *Head) askAgain(w http.ResponseWriter, r *http.Request, f flow, mail string, err error) error {
	status, text := h.said(r, err)
	retryAfter(w, err)
	if len(mail) > 254 {
		mail = ""
	}
	f.Who = signin.Proof{}
	return h.ask(w, r, status, f, mail, text)
}

// askConsent shows who wants in, to somebody who proved itself.
func (h *Head) askConsent(w http.ResponseWriter, r *http.Request, f flow) error {
	sealed, err := h.begin(w, r, &f)
	if err != nil {
		return err
	}
	page := frame{Title: "Allow this?", Flow: sealed, Client: f.Client, Mail: f.Who.Mail, From: f.From, Device: f.device()}
	if f.device() {
		page.UserCode = signin.ShowUserCode(f.UserCode)
	}
	w.Header().Set("Content-Security-Policy", policy(leads(f)))
	return h.render(w, http.StatusOK, "consent", page)
}

func (h *Head) confirmPage(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	f, err := h.resume(r, q["flow"])
	if err != nil {
		return err
	}
	if f.Who.Subject == "" {
		return errFlow
	}
	return h.askConsent(w, r, f)
}

// confirm is somebody who proved itself and decides.
func (h *Head) confirm(w http.ResponseWriter, r *http.Request) error {
	p, err := form(w, r)
	if err != nil {
		return err
	}
	f, err := h.resume(r, p["flow"])
	if err != nil {
		return err
	}
	if f.Who.Subject == "" {
		return errFlow
	}
	allow := p["decision"] == "allow"
	if !f.device() {
		if !allow {
			return h.back(w, r, f, url.Values{"error": {"access_denied"}})
		}
		return h.finish(w, r, f)
	}
	if err := h.core.DecideDevice(r.Context(), h.peer(r), f.Who, f.UserCode, allow); err != nil {
		return err
	}
	done := frame{Title: "Signed in", Text: f.Client + " is signed in as " + f.Who.Mail + ". You may close this page."}
	if !allow {
		done = frame{Title: "Denied", Text: f.Client + " was not let in. You may close this page."}
	}
	return h.render(w, http.StatusOK, "message", done)
}

// finish gives the program its code.
func (h *Head) finish(w http.ResponseWriter, r *http.Request, f flow) error {
	code, err := h.core.Grant(r.Context(), h.peer(r), f.Who, f.Request)
	if err != nil {
		return h.askAgain(w, r, f, f.Who.Mail, err)
	}
	return h.back(w, r, f, url.Values{"code": {string(code.Reveal())}})
}

// devicePage asks for the code that a program shows (RFC 8628 §3.3). A code in the address is only filled in: that a person
// compares it keeps a link from signing a stranger in (§5.4).
func (h *Head) devicePage(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	code, err := signin.ParseUserCode(q["user_code"])
	if err == nil {
		code = signin.ShowUserCode(code)
	}
	browser(w, r)
	return h.render(w, http.StatusOK, "device", frame{Title: "Sign a program in", UserCode: code})
}

func (h *Head) device(w http.ResponseWriter, r *http.Request) error {
	p, err := form(w, r)
	if err != nil {
		return err
	}
	d, err := h.core.DeviceRequest(r.Context(), h.peer(r), p["user_code"])
	if err != nil {
		status, text := h.said(r, err)
		retryAfter(w, err)
		shown := p["user_code"]
		if len(shown) > 32 {
			shown = ""
		}
		return h.render(w, status, "device", frame{Title: "Sign a program in", UserCode: shown, Problem: text})
	}
	return h.ask(w, r, http.StatusOK, flow{UserCode: d.UserCode, From: d.From, Client: d.Client.Name}, "", "")
}

func (h *Head) callback(name string) string {
	return strings.TrimSuffix(h.core.Issuer(), "/") + providerPath + name + "/callback"
}

// toProvider sends somebody to prove itself elsewhere.
func (h *Head) toProvider(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	f, err := h.resume(r, q["flow"])
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	trip, err := h.core.Begin(r.Context(), name, h.callback(name))
	if err != nil {
		return h.askAgain(w, r, f, "", err)
	}
	to := trip.URL
	trip.URL = "" // it is long, and not needed again
	sealed, err := h.sealer.seal("travel", travel{name, trip, f})
	if err != nil {
		return err
	}
	if len(sealed) > maxSealed-256 { // browsers drop larger cookies
		return invalid("the request is too long")
	}
	setCookie(w, travelCookie, sealed, int(flowLife.Seconds()))
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// fromProvider is somebody whom a provider sends back.
func (h *Head) fromProvider(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	var t travel
	c, err := r.Cookie(travelCookie)
	setCookie(w, travelCookie, "", -1)
	name := r.PathValue("name")
	if err != nil || !h.sealer.open("travel", c.Value, &t) || t.Provider != name ||
		subtle.ConstantTimeCompare([]byte(t.Trip.State), []byte(q["state"])) != 1 || t.Trip.State == "" {
		return errFlow
	}
	if err := h.fresh(r, t.Flow); err != nil {
		return err
	}
	if q["code"] == "" {
		// What a provider says about an error is a stranger's text: anybody can make such an address.
		return h.askAgain(w, r, t.Flow, "", fault.New(fault.Forbidden, "you were not signed in there"))
	}
	who, err := h.core.Finish(r.Context(), h.peer(r), name, t.Trip, secret.New([]byte(q["code"])))
	if err != nil {
		return h.askAgain(w, r, t.Flow, "", err)
	}
	t.Flow.Who = who
	sealed, err := h.begin(w, r, &t.Flow)
	if err != nil {
		return err
	}
	// The browser may still be signed in there and have asked nobody, so somebody agrees here.
	http.Redirect(w, r, confirmPath+"?"+url.Values{"flow": {sealed}}.Encode(), http.StatusSeeOther)
	return nil
}
