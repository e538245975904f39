package signin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Grant types.
const (
	codeGrant    = "authorization_code"
	refreshGrant = "refresh_token"
	deviceGrant  = "urn:ietf:params:oauth:grant-type:device_code"
)

// scope is the only one there is; what is asked for makes no difference (RFC 6749 §3.3).
const scope = "user_impersonation"

// metadata is RFC 8414's.
func (h *Head) metadata(w http.ResponseWriter, _ *http.Request) error {
	at := h.core.Issuer()
	reply(w, http.StatusOK, map[string]any{
		"issuer":                                         at,
		"authorization_endpoint":                         at + authorizePath,
		"token_endpoint":                                 at + tokenPath,
		"device_authorization_endpoint":                  at + startPath,
		"revocation_endpoint":                            at + revokePath,
		"response_types_supported":                       []string{"code"},
		"grant_types_supported":                          []string{codeGrant, refreshGrant, deviceGrant},
		"code_challenge_methods_supported":               []string{"S256"},
		"token_endpoint_auth_methods_supported":          []string{"none"},
		"revocation_endpoint_auth_methods_supported":     []string{"none"},
		"scopes_supported":                               []string{scope, "offline_access"},
		"authorization_response_iss_parameter_supported": true,
	})
	return nil
}

// token is the token endpoint.
func (h *Head) token(w http.ResponseWriter, r *http.Request) error {
	p, err := form(w, r)
	if err != nil {
		return err
	}
	take := func(name string) secret.Secret { return secret.New([]byte(p[name])) }
	client, peer := p["client_id"], h.peer(r)
	var t signin.Tokens
	switch p["grant_type"] {
	case codeGrant:
		if t, err = h.core.Exchange(r.Context(), peer, client, p["redirect_uri"], take("code"), take("code_verifier")); errors.Is(err, signin.ErrCodeExpired) {
			err = signin.ErrGrant // expired_token is a word for device codes
		}
	case refreshGrant:
		t, err = h.core.Refresh(r.Context(), peer, client, take("refresh_token"))
	case deviceGrant:
		t, err = h.core.PollDevice(r.Context(), peer, client, take("device_code"))
	case "":
		return invalid("grant_type is missing")
	default:
		return oauthError{http.StatusBadRequest, "unsupported_grant_type", "grant_type must be authorization_code, refresh_token or device_code"}
	}
	if errors.Is(err, signin.ErrRevoked) {
		return oauthError{http.StatusBadRequest, "invalid_grant", fault.Public(err)}
	}
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, map[string]any{
		"access_token": string(t.Access.Reveal()), "token_type": "Bearer", "expires_in": int(t.Life.Seconds()),
		"refresh_token": string(t.Refresh.Reveal()), "scope": scope,
	})
	return nil
}

// startDevice is the device authorization endpoint (RFC 8628 §3.1).
func (h *Head) startDevice(w http.ResponseWriter, r *http.Request) error {
	p, err := form(w, r)
	if err != nil {
		return err
	}
	d, err := h.core.StartDevice(r.Context(), h.peer(r), p["client_id"])
	if err != nil {
		return err
	}
	page := h.core.Issuer() + devicePath
	reply(w, http.StatusOK, map[string]any{
		"device_code": string(d.DeviceCode.Reveal()), "user_code": d.UserCode, "verification_uri": page,
		"verification_uri_complete": page + "?user_code=" + d.UserCode, "expires_in": int(d.Life.Seconds()), "interval": int(d.Interval.Seconds()),
	})
	return nil
}

// revoke is RFC 7009's. Whoever holds a token may end its session.
func (h *Head) revoke(w http.ResponseWriter, r *http.Request) error {
	p, err := form(w, r)
	if err != nil {
		return err
	}
	if p["token"] == "" {
		return invalid("token is missing")
	}
	if err := h.core.Logout(r.Context(), h.peer(r), secret.New([]byte(p["token"]))); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// decode reads a small JSON body.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := rest.Body(w, r, maxForm)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fault.New(fault.Malformed, "the body is not the JSON this call takes") // the cause would quote the body
	}
	return nil
}

type userJSON struct {
	UserID   string `json:"userId"`
	Mail     string `json:"mail"`
	Local    *bool  `json:"local,omitempty"`
	Disabled *bool  `json:"disabled,omitempty"`
	Created  string `json:"created,omitempty"`
}

func described(u signin.UserInfo) userJSON {
	return userJSON{u.Subject, u.Mail, &u.Local, &u.Disabled, u.Created.UTC().Format(time.RFC3339)}
}

func (h *Head) register(w http.ResponseWriter, r *http.Request) error {
	var b struct{ Mail, Password, Invitation string }
	if err := decode(w, r, &b); err != nil {
		return err
	}
	peer := h.peer(r)
	u, err := h.core.Register(r.Context(), peer, signin.NewUser{
		Mail: b.Mail, Password: secret.New([]byte(b.Password)), Invitation: secret.New([]byte(b.Invitation)),
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, userJSON{UserID: u.Subject, Mail: u.Mail})
	return nil
}

// user is who the bearer token is of.
func (h *Head) user(w http.ResponseWriter, r *http.Request) error {
	u, err := h.core.Check(r.Context(), bearer(r))
	if err != nil {
		return err
	}
	info, err := h.core.User(r.Context(), u.Subject)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, described(info))
	return nil
}

func (h *Head) password(w http.ResponseWriter, r *http.Request) error {
	u, err := h.core.Check(r.Context(), bearer(r))
	if err != nil {
		return err
	}
	var b struct{ Old, New string }
	if err := decode(w, r, &b); err != nil {
		return err
	}
	if err := h.core.ChangePassword(r.Context(), h.peer(r), u, secret.New([]byte(b.Old)), secret.New([]byte(b.New))); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// administrators lets in who shows the administrator's token.
func (h *Head) administrators(do oauthHandler) oauthHandler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !h.peer(r).Administrator {
			return fault.New(fault.Unauthorized, "this call takes the administrator's token")
		}
		return do(w, r)
	}
}

func (h *Head) invite(w http.ResponseWriter, r *http.Request) error {
	var b struct {
		Mail, Provider string
		Days           int
	}
	if err := decode(w, r, &b); err != nil {
		return err
	}
	if b.Days < 0 || b.Days > 90 {
		return fault.New(fault.Invalid, "days must be 1 to 90")
	}
	token, err := h.core.Invite(r.Context(), h.peer(r), signin.Invitation{Mail: b.Mail, Provider: b.Provider, Life: time.Duration(b.Days) * 24 * time.Hour})
	if err != nil {
		return err
	}
	out := map[string]any{"mail": b.Mail}
	if !token.IsZero() {
		out["invitation"] = string(token.Reveal())
	}
	reply(w, http.StatusCreated, out)
	return nil
}

const pageOfUsers = 100

func (h *Head) users(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	top := pageOfUsers
	if t := q["top"]; t != "" {
		if top, err = strconv.Atoi(t); err != nil || top < 1 || top > pageOfUsers {
			return fault.New(fault.Invalid, "top must be 1 to %d", pageOfUsers)
		}
	}
	us, err := h.core.Users(r.Context(), q["after"], top)
	if err != nil {
		return err
	}
	out := make([]userJSON, len(us))
	for i, u := range us {
		out[i] = described(u)
	}
	reply(w, http.StatusOK, map[string]any{"users": out})
	return nil
}

// change is what an administrator does to an account.
func (h *Head) change(w http.ResponseWriter, r *http.Request) error {
	ctx, peer, subject := r.Context(), h.peer(r), r.PathValue("subject")
	var err error
	switch r.PathValue("action") {
	case "disable":
		err = h.core.Disable(ctx, peer, subject)
	case "enable":
		err = h.core.Enable(ctx, peer, subject)
	case "revoke":
		err = h.core.RevokeUser(ctx, peer, subject)
	case "password":
		var b struct{ New string }
		if err = decode(w, r, &b); err == nil {
			err = h.core.ResetPassword(ctx, peer, subject, secret.New([]byte(b.New)))
		}
	default:
		err = fault.New(fault.NotFound, "there is nothing at this path")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
