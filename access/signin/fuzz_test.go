package signin

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
)

func FuzzParseMail(f *testing.F) {
	for _, s := range []string{"a@b.example", " A@B ", "a b@c", `"a"@b`, "a@b@c", "a@[127.0.0.1]", "é@b", "a@b\r\nX: y", "<a@b>", "a@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMail(s)
		if err != nil {
			return
		}
		again, err := ParseMail(m)
		if err != nil || again != m || len(m) > maxMail || strings.Count(m, "@") != 1 || strings.ContainsAny(m, " \t\r\n\"<>,;") {
			t.Errorf("%q became %q, then %q, %v", s, m, again, err)
		}
	})
}

func FuzzParsePHC(f *testing.F) {
	f.Add(phc{memory: 64, passes: 1, threads: 1, salt: make([]byte, saltSize), sum: make([]byte, sumSize)}.String())
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2i$v=19$m=64,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if h.String() != s || h.memory > maxMemory || h.passes > maxPasses || h.passes == 0 || h.threads == 0 {
			t.Errorf("%q became %+v", s, h)
		}
	})
}

func FuzzParseRefresh(f *testing.F) {
	k := secret.New([]byte(strings.Repeat("k", 32)))
	s, err := newSigner("https://x", k, k)
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.newRefresh(strings.Repeat("ab", familySize), 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(good.Reveal()))
	f.Add(refreshTag)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := s.parseRefresh(text)
		if err != nil && (!errors.Is(err, ErrGrant) || got != (refreshToken{})) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		// Every process of the fuzzer makes another good one, of the same family.
		if err == nil && got != (refreshToken{strings.Repeat("ab", familySize), 7}) {
			t.Errorf("%q was made up and is taken: %+v", text, got)
		}
	})
}

func FuzzVerify(f *testing.F) {
	k := secret.New([]byte(strings.Repeat("k", 32)))
	s, err := newSigner("https://x", k, k)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	good, err := s.access(Account{User: User{Subject: "s", Mail: "m"}}, Session{Family: "f"}, now, time.Minute)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(good.Reveal()))
	f.Add("e30.e30.e30")
	f.Add(`{"payload":"e30","signatures":[{"protected":"e30","signature":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := s.verify(text, now)
		if err != nil && (c != claims{} || !errors.Is(err, ErrToken) && !errors.Is(err, ErrExpired)) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
		if err == nil && (c.Subject != "s" || c.Mail != "m" || c.Family != "f") {
			t.Errorf("%q was made up and is taken: %+v", text, c)
		}
	})
}

func FuzzUserCode(f *testing.F) {
	f.Add("WDJB-MJHT")
	f.Add("wdjb mjht")
	f.Fuzz(func(t *testing.T, s string) {
		code, err := ParseUserCode(s)
		if err != nil {
			return
		}
		if again, err := ParseUserCode(ShowUserCode(code)); err != nil || again != code || len(code) != userCodeLen {
			t.Errorf("%q became %q, then %q, %v", s, code, again, err)
		}
	})
}

// What is taken as a loopback address is one to every reader.
func FuzzRedirect(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:1/cb", "http://[::1]/", "http://127.0.0.1@evil/", "http://127.0.0.1:1:2/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !AzureSphere.takes(s) {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Hostname() != "127.0.0.1" && u.Hostname() != "::1" {
			t.Errorf("%q is taken: %+v, %v", s, u, err)
		}
	})
}

func TestUserCodes(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		c := newUserCode()
		if again, err := ParseUserCode(ShowUserCode(c)); err != nil || again != c || seen[c] {
			t.Fatalf("%q, %q, %v", c, again, err)
		}
		seen[c] = true
	}
}

func TestLimiter_BoundsMemory(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := newLimiter[int](func() time.Time { return now }, 2, time.Second)
	l.take(-1)
	l.take(-1)
	for i := range 3 * maxDebtors {
		l.take(i)
	}
	if len(l.due) > maxDebtors {
		t.Errorf("%d are remembered", len(l.due))
	}
	if l.take(-1) == 0 {
		t.Error("the one with the most debt was forgotten")
	}
}
