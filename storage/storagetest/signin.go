package storagetest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
)

// SignIn is what every signin.Store promises, of the whole store that open makes.
func SignIn(t *testing.T, open Open) {
	SignInStore(t, func(t testing.TB) signin.Store { return open(t) })
}

func account(subject, mail string) signin.Account {
	return signin.Account{
		User: signin.User{Subject: subject, Mail: mail}, Password: "$argon2id$of " + subject, Epoch: 3, Places: []string{"192.0.2.1/32", "2001:db8::/64"},
		Created: kept(Start), Updated: kept(Start.Add(time.Second)),
	}
}

func grantKey(s string) signin.Key { return sha256.Sum256([]byte(s)) }

func grant(name string) signin.Grant {
	return signin.Grant{
		Key: grantKey(name), Kind: signin.DeviceGrant, Lookup: "found by " + name, Until: kept(Start.Add(time.Minute)), Expires: kept(Start.Add(time.Hour)),
		GrantDetails: signin.GrantDetails{
			Subject: "u", Epoch: 3, Client: "azsphere", Redirect: "http://127.0.0.1/☂", Challenge: "c", Family: "f", Denied: true,
			Polled: kept(Start), Interval: 5 * time.Second, From: "::1", Mail: "a@b.example", Provider: "corp",
		},
	}
}

func begun(family, subject string, used time.Time) signin.Session {
	return signin.Session{
		Family: family, Subject: subject, Client: "azsphere", Epoch: 3, Generation: 7, Token: grantKey("token of " + family), From: "::1",
		Created: kept(Start), Used: kept(used), Until: kept(Start.Add(90 * time.Hour)), Expires: kept(Start.Add(time.Hour)),
	}
}

// SignInStore is the same of any signin.Store.
func SignInStore(t *testing.T, open func(testing.TB) signin.Store) {
	t.Run("accounts are found by subject, mail address and identity", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		id := signin.Identity{Issuer: "https://id.example", Subject: "Ada"}
		local, remote := account("u1", "Ada@Example.org"), account("u2", "eve@example.org")
		remote.Password, remote.Places = "", nil
		ok(t, s.CreateAccount(ctx, local, nil, nil, nil))
		ok(t, s.CreateAccount(ctx, remote, &id, nil, nil))
		same(t, "by subject", must(s.Account(ctx, "u1"))(t), local)
		same(t, "by mail address in other case", must(s.AccountByMail(ctx, "ADA@example.ORG"))(t), local)
		same(t, "by identity", must(s.AccountByIdentity(ctx, id))(t), remote)
		for what, read := range map[string]func() (signin.Account, error){
			"subject in other case": func() (signin.Account, error) { return s.Account(ctx, "U1") },
			"mail address":          func() (signin.Account, error) { return s.AccountByMail(ctx, "ada@example.or") },
			"pattern":               func() (signin.Account, error) { return s.AccountByMail(ctx, "%") },
			"identity in other case": func() (signin.Account, error) {
				return s.AccountByIdentity(ctx, signin.Identity{Issuer: id.Issuer, Subject: "ada"})
			},
			"subject of another issuer": func() (signin.Account, error) {
				return s.AccountByIdentity(ctx, signin.Identity{Issuer: "https://x", Subject: "Ada"})
			},
			"local account's identity":   func() (signin.Account, error) { return s.AccountByIdentity(ctx, signin.Identity{Subject: "u1"}) },
			"account after a failed one": func() (signin.Account, error) { return s.Account(ctx, "u3") },
		} {
			_, err := read()
			wantKind(t, what, err, fault.NotFound)
		}
	})

	t.Run("a mail address and an identity belong to one account", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		id := signin.Identity{Issuer: "i", Subject: "s"}
		ok(t, s.CreateAccount(ctx, account("u1", "a@x.example"), &id, nil, nil))
		if err := s.CreateAccount(ctx, account("u2", "A@X.example"), nil, nil, nil); err != signin.ErrMailTaken {
			t.Errorf("the same mail address: %v", err)
		}
		if err := s.CreateAccount(ctx, account("u3", "b@x.example"), &id, nil, nil); err != signin.ErrMailTaken {
			t.Errorf("the same identity: %v", err)
		}
		_, err := s.Account(ctx, "u3")
		wantKind(t, "the account that was refused for its identity", err, fault.NotFound)
		taken := make([]error, 20)
		parallel(t, len(taken), func(i int) error {
			if err := s.CreateAccount(ctx, account(fmt.Sprintf("r%d", i), "race@x.example"), nil, nil, nil); err != nil && err != signin.ErrMailTaken {
				return err
			} else {
				taken[i] = err
			}
			return nil
		})
		if n := len(taken) - count(taken, signin.ErrMailTaken); n != 1 {
			t.Errorf("%d of %d accounts with one mail address were made", n, len(taken))
		}
	})

	t.Run("an invitation is taken once", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		g := grant("invitation")
		g.Kind = signin.InvitationGrant
		ok(t, s.PutGrant(ctx, g))
		key := g.Key
		fine := func(got signin.Grant) error {
			same(t, "what check sees", got, g)
			return nil
		}
		if err := s.CreateAccount(ctx, account("u", "u@x.example"), nil, &key, func(signin.Grant) error { return errNo }); err != errNo {
			t.Errorf("refused by check: %v", err)
		}
		errs := make([]error, 10)
		parallel(t, len(errs), func(i int) error {
			errs[i] = s.CreateAccount(ctx, account(fmt.Sprint("u", i), fmt.Sprintf("u%d@x.example", i)), nil, &key, fine)
			return nil
		})
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				wantKind(t, "one that came late", err, fault.NotFound)
			}
		}
		if all := must(s.Accounts(ctx, "", 100))(t); made != 1 || len(all) != 1 {
			t.Errorf("%d accounts were made, %d are there; want 1", made, len(all))
		}
		// What is refused for another reason leaves the invitation.
		ok(t, s.PutGrant(ctx, g))
		taken := must(s.Accounts(ctx, "", 1))(t)[0].Mail
		if err := s.CreateAccount(ctx, account("again", taken), nil, &key, fine); err != signin.ErrMailTaken {
			t.Errorf("a taken mail address: %v", err)
		}
		same(t, "the invitation", must(s.Grant(ctx, key))(t), g)
	})

	t.Run("lists are pages in order of the folded mail address", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var want []string
		for i := range 7 {
			mail := fmt.Sprintf("m%d@x.example", i)
			if i%2 == 0 {
				mail = strings.ToUpper(mail)
			}
			want = append(want, mail)
		}
		want = append(want, "%@x.example", "_@x.example", "'@x.example")
		for i, mail := range want {
			ok(t, s.CreateAccount(ctx, account(fmt.Sprint(i), mail), nil, nil, nil))
		}
		slices.SortFunc(want, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page := must(s.Accounts(ctx, after, 3))(t)
			for _, a := range page {
				got = append(got, a.Mail)
			}
			if len(page) < 3 {
				break
			}
		}
		same(t, "mail addresses", got, want)
	})

	t.Run("an account changes with its revocation or not at all", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		a := account("u", "u@x.example")
		ok(t, s.CreateAccount(ctx, a, nil, nil, nil))
		_, err := s.ChangeAccount(ctx, "none", func(a signin.Account) (signin.Account, *signin.Revocation, error) { return a, nil, nil })
		wantKind(t, "none", err, fault.NotFound)
		_, err = s.ChangeAccount(ctx, "u", func(now signin.Account) (signin.Account, *signin.Revocation, error) {
			same(t, "current", now, a)
			now.Disabled = true
			return now, &signin.Revocation{Name: "user/u", Epoch: 9, Expires: Start.Add(time.Hour)}, errNo
		})
		wantNo(t, "change", err)
		same(t, "after a refusal", must(s.Account(ctx, "u"))(t), a)
		same(t, "revocations after a refusal", must(s.Revocations(ctx, Start))(t), []signin.Revocation(nil))

		want := a
		want.Disabled, want.Epoch, want.Password, want.Places, want.Updated = true, 4, "", nil, kept(Start.Add(time.Minute))
		r := signin.Revocation{Name: "user/u", Epoch: 4, Expires: kept(Start.Add(time.Hour))}
		same(t, "returned", must(s.ChangeAccount(ctx, "u", func(now signin.Account) (signin.Account, *signin.Revocation, error) {
			next := want
			next.User, next.Created = signin.User{Subject: "other", Mail: "other@x.example"}, time.Time{} // which do not change
			return next, &r, nil
		}))(t), want)
		same(t, "stored", must(s.Account(ctx, "u"))(t), want)
		same(t, "revocations", must(s.Revocations(ctx, Start))(t), []signin.Revocation{r})
		parallel(t, 20, func(int) error {
			_, err := s.ChangeAccount(ctx, "u", func(now signin.Account) (signin.Account, *signin.Revocation, error) {
				now.Epoch++
				return now, nil, nil
			})
			return err
		})
		if got := must(s.Account(ctx, "u"))(t).Epoch; got != 24 {
			t.Errorf("epoch %d after 20 changes at once, want 24", got)
		}
	})

	t.Run("grants", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		g := grant("g")
		_, err := s.Grant(ctx, g.Key)
		wantKind(t, "none", err, fault.NotFound)
		_, err = s.ChangeGrant(ctx, g.Key, func(g signin.Grant) (signin.Grant, *signin.Session, error) { return g, nil, nil })
		wantKind(t, "change of none", err, fault.NotFound)
		ok(t, s.PutGrant(ctx, g))
		same(t, "read", must(s.Grant(ctx, g.Key))(t), g)
		same(t, "found", must(s.FindGrant(ctx, signin.DeviceGrant, g.Lookup))(t), g)
		_, err = s.FindGrant(ctx, signin.CodeGrant, g.Lookup)
		wantKind(t, "of another kind", err, fault.NotFound)
		other := grant("other")
		other.Lookup = g.Lookup
		wantKind(t, "the same lookup", s.PutGrant(ctx, other), fault.AlreadyExists)
		for _, name := range []string{"none", "nor here"} {
			bare := signin.Grant{Key: grantKey(name), Kind: signin.CodeGrant}
			ok(t, s.PutGrant(ctx, bare))
			same(t, "bare", must(s.Grant(ctx, bare.Key))(t), bare)
		}
		_, err = s.FindGrant(ctx, signin.CodeGrant, "")
		wantKind(t, "by nothing", err, fault.NotFound)
		g.Until = kept(Start.Add(2 * time.Minute))
		ok(t, s.PutGrant(ctx, g))
		same(t, "put again", must(s.Grant(ctx, g.Key))(t), g)
	})

	t.Run("a grant and its session are one change", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		g := grant("g")
		g.Family = ""
		ok(t, s.PutGrant(ctx, g))
		e := begun("f0", "u", Start)
		_, err := s.ChangeGrant(ctx, g.Key, func(now signin.Grant) (signin.Grant, *signin.Session, error) {
			same(t, "current", now, g)
			now.Family = "f0"
			return now, &e, errNo
		})
		wantNo(t, "change", err)
		same(t, "after a refusal", must(s.Grant(ctx, g.Key))(t), g)
		_, err = s.UserSession(ctx, "f0")
		wantKind(t, "the session of a refused change", err, fault.NotFound)

		used := make([]bool, 20)
		parallel(t, len(used), func(i int) error {
			_, err := s.ChangeGrant(ctx, g.Key, func(now signin.Grant) (signin.Grant, *signin.Session, error) {
				if used[i] = now.Family == ""; !used[i] {
					return now, nil, nil
				}
				now.Family = "f0"
				return now, &e, nil
			})
			return err
		})
		if n := count(used, true); n != 1 {
			t.Errorf("%d of %d uses at once were the first", n, len(used))
		}
		g.Family = "f0"
		same(t, "the grant", must(s.Grant(ctx, g.Key))(t), g)
		same(t, "the session", must(s.UserSession(ctx, "f0"))(t), e)
	})

	t.Run("of the sessions of an account those used last stay", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		ok(t, s.PutGrant(ctx, grant("g")))
		begin := func(e signin.Session) {
			t.Helper()
			must(s.ChangeGrant(ctx, grantKey("g"), func(g signin.Grant) (signin.Grant, *signin.Session, error) { return g, &e, nil }))(t)
		}
		begin(begun("foreign", "v", Start.Add(-time.Hour)))
		for i := range signin.MaxSessions + 2 {
			begin(begun(fmt.Sprint("f", i), "u", Start.Add(time.Duration(i)*time.Second)))
		}
		for family, there := range map[string]bool{"f0": false, "f1": false, "f2": true, fmt.Sprint("f", signin.MaxSessions+1): true, "foreign": true} {
			if _, err := s.UserSession(ctx, family); (err == nil) != there {
				t.Errorf("session %s: %v, want it there: %v", family, err, there)
			}
		}
	})

	t.Run("a session changes with its revocation or not at all", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		e := begun("f", "u", Start)
		ok(t, s.PutGrant(ctx, grant("g")))
		must(s.ChangeGrant(ctx, grantKey("g"), func(g signin.Grant) (signin.Grant, *signin.Session, error) { return g, &e, nil }))(t)
		_, err := s.ChangeUserSession(ctx, "none", func(e signin.Session) (signin.Session, *signin.Revocation, error) { return e, nil, nil })
		wantKind(t, "none", err, fault.NotFound)
		_, err = s.ChangeUserSession(ctx, "f", func(now signin.Session) (signin.Session, *signin.Revocation, error) {
			same(t, "current", now, e)
			now.Revoked = true
			return now, &signin.Revocation{Name: "session/f", Expires: Start.Add(time.Hour)}, errNo
		})
		wantNo(t, "change", err)
		same(t, "after a refusal", must(s.UserSession(ctx, "f"))(t), e)
		want := e
		want.Generation, want.Token, want.Used, want.Expires = 8, grantKey("next"), kept(Start.Add(time.Minute)), kept(Start.Add(2*time.Hour))
		same(t, "returned", must(s.ChangeUserSession(ctx, "f", func(signin.Session) (signin.Session, *signin.Revocation, error) { return want, nil, nil }))(t), want)
		same(t, "stored", must(s.UserSession(ctx, "f"))(t), want)
		winners := make([]bool, 20)
		parallel(t, len(winners), func(i int) error {
			_, err := s.ChangeUserSession(ctx, "f", func(now signin.Session) (signin.Session, *signin.Revocation, error) {
				winners[i] = now.Token == want.Token
				now.Token = grantKey(fmt.Sprint("token of ", i))
				return now, nil, nil
			})
			return err
		})
		if n := count(winners, true); n != 1 {
			t.Errorf("%d of %d uses of one token at once succeeded", n, len(winners))
		}
	})

	t.Run("of a revocation the highest epoch and the latest expiry stay", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for _, r := range []signin.Revocation{
			{Name: "user/a", Epoch: 2, Expires: Start.Add(2 * time.Hour)},
			{Name: "user/a", Epoch: 5, Expires: Start.Add(time.Hour)},
			{Name: "user/a", Epoch: 3, Expires: Start.Add(time.Hour)},
			{Name: "user/b", Epoch: 1, Expires: Start.Add(time.Minute)},
		} {
			ok(t, s.Revoke(ctx, r))
		}
		all := must(s.Revocations(ctx, Start))(t)
		slices.SortFunc(all, func(a, b signin.Revocation) int { return strings.Compare(a.Name, b.Name) })
		for i := range all {
			all[i].Expires = kept(all[i].Expires)
		}
		a := signin.Revocation{Name: "user/a", Epoch: 5, Expires: kept(Start.Add(2 * time.Hour))}
		same(t, "all", all, []signin.Revocation{a, {Name: "user/b", Epoch: 1, Expires: kept(Start.Add(time.Minute))}})
		if left := must(s.Revocations(ctx, Start.Add(time.Hour)))(t); len(left) != 1 || left[0].Name != "user/a" {
			t.Errorf("after an hour: %v", left)
		}
	})

	t.Run("what expired is swept", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		late := grant("late")
		late.Expires = Start.Add(48 * time.Hour)
		ok(t, s.PutGrant(ctx, grant("g")))
		ok(t, s.PutGrant(ctx, late))
		e, f := begun("f", "u", Start), begun("late", "u", Start)
		f.Expires = Start.Add(48 * time.Hour)
		for _, e := range []signin.Session{e, f} {
			must(s.ChangeGrant(ctx, late.Key, func(g signin.Grant) (signin.Grant, *signin.Session, error) { return g, &e, nil }))(t)
		}
		ok(t, s.Revoke(ctx, signin.Revocation{Name: "user/a", Expires: Start.Add(time.Hour)}))
		ok(t, s.CreateAccount(ctx, account("u", "u@x.example"), nil, nil, nil))
		ok(t, s.SweepSignIn(ctx, Start.Add(time.Hour)))
		_, err := s.Grant(ctx, grantKey("g"))
		wantKind(t, "an expired grant", err, fault.NotFound)
		_, err = s.UserSession(ctx, "f")
		wantKind(t, "an expired session", err, fault.NotFound)
		same(t, "revocations", must(s.Revocations(ctx, Start.Add(-time.Hour)))(t), []signin.Revocation(nil))
		must(s.Grant(ctx, late.Key))(t)
		must(s.UserSession(ctx, "late"))(t)
		must(s.Account(ctx, "u"))(t)
	})
}

func count[T comparable](all []T, want T) (n int) {
	for _, v := range all {
		if v == want {
			n++
		}
	}
	return n
}
