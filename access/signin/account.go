package signin

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// NewUser is somebody who gets an account.
type NewUser struct {
	Mail     string
	Password secret.Secret
	// Invitation is what Invite returned; it may be empty for whoever needs none.
	Invitation secret.Secret
}

// Register makes a local account. An administrator may, whoever has an invitation for the mail address may, and others by
// Config.Registration. It fails with ErrRegistration, ErrMailTaken, Throttled, and Invalid for a mail address or a password
// that is not taken.
func (s *Service) Register(ctx context.Context, peer Peer, n NewUser) (User, error) {
	user, err := s.register(ctx, peer, n)
	if err != nil {
		s.audit(ctx, slog.LevelWarn, peer, "registration refused", "reason", fault.Public(err))
	}
	return user, err
}

func (s *Service) register(ctx context.Context, peer Peer, n NewUser) (User, error) {
	var invitation *Key
	switch {
	case peer.Administrator:
	case !n.Invitation.IsZero():
		k := keyOf("invitation", n.Invitation)
		invitation = &k
	case s.cfg.Registration == Anyone, s.cfg.Registration == FromLoopback && peer.Addr.IsLoopback():
	default:
		return User{}, ErrRegistration
	}
	if !peer.Administrator {
		if wait := s.requests.take(placeOf(peer.Addr)); wait > 0 {
			return User{}, throttled(wait, "too many registrations; try again later")
		}
	}
	mail, err := ParseMail(n.Mail)
	if err != nil {
		return User{}, err
	}
	password, err := checkPassword(n.Password, mail)
	if err != nil {
		return User{}, err
	}
	if invitation != nil { // before a slot is taken for somebody who made one up
		g, err := s.cfg.Store.Grant(ctx, *invitation)
		if fault.Is(err, fault.NotFound) {
			return User{}, ErrRegistration
		}
		if err == nil {
			err = s.invited(g, mail, "")
		}
		if err != nil {
			return User{}, err
		}
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return User{}, err
	}
	proof, err := s.create(ctx, peer, Account{User: User{Mail: mail}, Password: hash}, "", nil, invitation)
	return proof.User, err
}

// invited judges an invitation.
func (s *Service) invited(g Grant, mail, provider string) error {
	if g.Kind != InvitationGrant || Fold(g.Mail) != Fold(mail) || g.Provider != provider || !s.now().Before(g.Until) {
		return ErrRegistration
	}
	return nil
}

// create keeps a new account. Its identity at the provider, if it has one, is proved.
func (s *Service) create(ctx context.Context, peer Peer, a Account, provider string, id *Identity, invitation *Key) (Proof, error) {
	a.Subject, a.Epoch = guid(), 1
	a.Created = s.now()
	a.Updated = a.Created
	err := s.cfg.Store.CreateAccount(ctx, a, id, invitation, func(g Grant) error { return s.invited(g, a.Mail, provider) })
	if fault.Is(err, fault.NotFound) {
		err = ErrRegistration
	}
	if err != nil {
		return Proof{}, err
	}
	s.audit(ctx, slog.LevelInfo, peer, "registered", "user", a.Subject, "mail", a.Mail, "provider", provider, "invited", invitation != nil)
	return a.proof(), nil
}

func (a Account) proof() Proof { return Proof{a.User, a.Epoch} }

// Invitation lets somebody make an account.
type Invitation struct {
	Mail string
	// Provider is where the person will prove itself; empty: it will choose a password, and needs what Invite returns.
	Provider string
	Life     time.Duration // 0: 7 days
}

const (
	invitationLife    = 7 * 24 * time.Hour
	maxInvitationLife = 90 * 24 * time.Hour
)

// Invite lets somebody make an account. What it returns, unless a provider is named, is for that person's eyes only. The caller
// has decided that peer may invite, or that it acts by itself. It fails with ErrMailTaken, ErrNoProvider and Invalid.
func (s *Service) Invite(ctx context.Context, peer Peer, i Invitation) (secret.Secret, error) {
	mail, err := ParseMail(i.Mail)
	if err != nil {
		return secret.Secret{}, err
	}
	if i.Life == 0 {
		i.Life = invitationLife
	}
	if i.Life < 0 || i.Life > maxInvitationLife {
		return secret.Secret{}, fault.New(fault.Invalid, "an invitation is good for at most 90 days")
	}
	switch _, err := s.cfg.Store.AccountByMail(ctx, mail); {
	case err == nil:
		return secret.Secret{}, ErrMailTaken
	case !fault.Is(err, fault.NotFound):
		return secret.Secret{}, err
	}
	var token secret.Secret
	g := Grant{Kind: InvitationGrant, Until: s.now().Add(i.Life), GrantDetails: GrantDetails{Mail: mail, Provider: i.Provider}}
	if i.Provider != "" {
		if _, ok := s.providers[i.Provider]; !ok {
			return secret.Secret{}, ErrNoProvider
		}
		g.Key = invitedTo(i.Provider, mail)
	} else {
		token = newToken("vi1_")
		g.Key = keyOf("invitation", token)
	}
	g.Expires = g.Until
	if err := s.cfg.Store.PutGrant(ctx, g); err != nil {
		return secret.Secret{}, err
	}
	s.audit(ctx, slog.LevelInfo, peer, "invited", "mail", mail, "provider", i.Provider)
	return token, nil
}

// newToken is a random text with a prefix by which scanners of secrets know it.
func newToken(prefix string) secret.Secret {
	return secret.New([]byte(prefix + base64.RawURLEncoding.EncodeToString(random(32))))
}

// Authenticate is somebody who shows a password. It fails with ErrCredentials, after as much work whether
// there is such an account or not; with ErrDisabled, to who knows the password; and with Throttled.
//
// Failures are counted against the place they come from, for the account and in all, and against the account. The last
// is not waited for at places where the account has signed in, nor by a place's first attempt of an hour: nobody elsewhere can
// keep out the owner who knows the password.
func (s *Service) Authenticate(ctx context.Context, peer Peer, mail string, password secret.Secret) (Proof, error) {
	a, err := s.authenticate(ctx, peer, mail, password)
	if err != nil {
		// What was typed as a mail address may be a password: only that of an account is told.
		s.audit(ctx, slog.LevelWarn, peer, "sign-in refused", "user", a.Subject, "reason", fault.Public(err))
		return Proof{}, err
	}
	s.audit(ctx, slog.LevelInfo, peer, "signed in", "user", a.Subject, "mail", a.Mail)
	return a.proof(), nil
}

// authenticate returns the account that was tried, if there is one, with its error.
func (s *Service) authenticate(ctx context.Context, peer Peer, typed string, password secret.Secret) (Account, error) {
	mail, err := ParseMail(typed)
	if err != nil {
		mail = "" // of no account; it is refused as such
	}
	place, folded := placeOf(peer.Addr), Fold(mail)
	var a Account
	if mail != "" {
		if a, err = s.cfg.Store.AccountByMail(ctx, mail); err != nil && !fault.Is(err, fault.NotFound) {
			return Account{}, err
		}
	}
	known := slices.Contains(a.Places, place.String())
	undo, err := s.attempt(pair{place, folded}, known)
	if err != nil {
		return a, err
	}
	match, stale, err := s.hasher.matches(ctx, password, a.Password)
	switch {
	case err != nil:
		undo()
		return a, err
	case !match:
		return a, ErrCredentials
	}
	undo()
	s.pairs.forget(pair{place, folded})
	if a.Disabled {
		return a, ErrDisabled
	}
	if stale || !known {
		if err := s.remember(ctx, a, place.String(), password, stale); err != nil {
			return a, err
		}
	}
	return a, nil
}

// attempt counts an attempt, until what it returns is called.
func (s *Service) attempt(p pair, known bool) (undo func(), err error) {
	const text = "too many attempts; try again later"
	if wait := s.places.take(p.place); wait > 0 {
		return nil, throttled(wait, text)
	}
	if wait := s.pairs.take(p); wait > 0 {
		s.places.giveBack(p.place)
		return nil, throttled(wait, text)
	}
	counted := !known && s.firsts.take(p) > 0
	if counted {
		if wait := s.mails.take(p.mail); wait > 0 {
			s.places.giveBack(p.place)
			s.pairs.giveBack(p)
			return nil, throttled(wait, text)
		}
	}
	return func() {
		s.places.giveBack(p.place)
		s.pairs.giveBack(p)
		if counted {
			s.mails.giveBack(p.mail)
		}
	}, nil
}

const maxPlaces = 8

// remember keeps where somebody signed in, and the password anew when its hash costs something else today.
func (s *Service) remember(ctx context.Context, a Account, place string, password secret.Secret, stale bool) error {
	hash := a.Password
	if stale {
		p, err := normalize(password)
		if err != nil {
			return err
		}
		if hash, err = s.hasher.hash(ctx, p); err != nil {
			return err
		}
	}
	_, err := s.cfg.Store.ChangeAccount(ctx, a.Subject, func(now Account) (Account, *Revocation, error) {
		if now.Password == a.Password { // nobody changed it meanwhile
			now.Password = hash
		}
		if i := slices.Index(now.Places, place); i >= 0 {
			now.Places = slices.Delete(slices.Clone(now.Places), i, i+1)
		}
		now.Places = append([]string{place}, now.Places[:min(len(now.Places), maxPlaces-1)]...)
		return now, nil, nil
	})
	return err
}

// ChangePassword sets a new password for who shows the old one, and ends every session of the account, this one too. It
// fails as Authenticate does, and with Invalid for a password that is not taken.
func (s *Service) ChangePassword(ctx context.Context, peer Peer, user User, old, fresh secret.Secret) error {
	a, err := s.cfg.Store.Account(ctx, user.Subject)
	if err != nil {
		return err
	}
	if _, err := s.authenticate(ctx, peer, a.Mail, old); err != nil {
		s.audit(ctx, slog.LevelWarn, peer, "change of password refused", "user", a.Subject, "reason", fault.Public(err))
		return err
	}
	return s.setPassword(ctx, peer, a, fresh, func(now Account) error {
		if now.Password == "" {
			return ErrCredentials
		}
		return nil
	})
}

// ResetPassword sets a password without the old one, for who forgot it, and ends every session of the account. An account that signs
// in at a provider gets none.
func (s *Service) ResetPassword(ctx context.Context, peer Peer, subject string, fresh secret.Secret) error {
	a, err := s.cfg.Store.Account(ctx, subject)
	if err != nil {
		return err
	}
	return s.setPassword(ctx, peer, a, fresh, func(now Account) error {
		if now.Password == "" {
			return fault.New(fault.Invalid, "this account signs in at a provider and has no password")
		}
		return nil
	})
}

func (s *Service) setPassword(ctx context.Context, peer Peer, a Account, fresh secret.Secret, check func(Account) error) error {
	password, err := checkPassword(fresh, a.Mail)
	if err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	return s.end(ctx, peer, a.Subject, "password changed", func(now *Account) error {
		now.Password, now.Places = hash, nil
		return check(*now)
	})
}

// errSame says that there is nothing to change.
var errSame = errors.New("nothing to change")

// Disable ends every session of an account and lets it begin no other. The account may be enabled again.
func (s *Service) Disable(ctx context.Context, peer Peer, subject string) error {
	return s.end(ctx, peer, subject, "user disabled", func(a *Account) error { a.Disabled = true; return nil })
}

// Enable lets a disabled account sign in. Tokens from before stay dead.
func (s *Service) Enable(ctx context.Context, peer Peer, subject string) error {
	return s.end(ctx, peer, subject, "user enabled", func(a *Account) error {
		if !a.Disabled {
			return errSame
		}
		a.Disabled = false
		return nil
	})
}

// RevokeUser ends every session of an account: all of its tokens are dead, here at once and on other servers within a second.
func (s *Service) RevokeUser(ctx context.Context, peer Peer, subject string) error {
	return s.end(ctx, peer, subject, "sessions revoked", func(*Account) error { return nil })
}

// end changes an account and ends its sessions.
func (s *Service) end(ctx context.Context, peer Peer, subject, what string, change func(*Account) error) error {
	a, err := s.cfg.Store.ChangeAccount(ctx, subject, func(now Account) (Account, *Revocation, error) {
		if err := change(&now); err != nil {
			return now, nil, err
		}
		now.Epoch++
		now.Updated = s.now()
		return now, s.revocation(userPrefix+subject, now.Epoch), nil
	})
	s.view.forget()
	if errors.Is(err, errSame) {
		return nil
	}
	if err != nil {
		return err
	}
	s.audit(ctx, slog.LevelInfo, peer, what, "user", subject, "mail", a.Mail)
	return nil
}

// UserInfo is a user as administrators see one.
type UserInfo struct {
	User
	Local    bool // it has a password
	Disabled bool
	Created  time.Time
}

func info(a Account) UserInfo { return UserInfo{a.User, a.Password != "", a.Disabled, a.Created} }

// User returns the user with that subject; fault.NotFound.
func (s *Service) User(ctx context.Context, subject string) (UserInfo, error) {
	a, err := s.cfg.Store.Account(ctx, subject)
	return info(a), err
}

// UserByMail returns the user with that mail address; fault.NotFound.
func (s *Service) UserByMail(ctx context.Context, mail string) (UserInfo, error) {
	mail, err := ParseMail(mail)
	if err != nil {
		return UserInfo{}, err
	}
	a, err := s.cfg.Store.AccountByMail(ctx, mail)
	return info(a), err
}

// Users lists users in order of their mail address, from the one behind after.
func (s *Service) Users(ctx context.Context, after string, limit int) ([]UserInfo, error) {
	as, err := s.cfg.Store.Accounts(ctx, after, limit)
	us := make([]UserInfo, len(as))
	for i, a := range as {
		us[i] = info(a)
	}
	return us, err
}
