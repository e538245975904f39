package blobsas

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

var key = []byte("0123456789abcdef0123456789abcdef")

func query(t testing.TB, s string) url.Values {
	t.Helper()
	q, err := url.ParseQuery(s)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

var grant = Grant{Container: "c", Blob: "d/a b/ü.txt", Permissions: "rw", Expiry: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}

func TestToken(t *testing.T) {
	t.Parallel()
	s := grant.Sign(key)
	tok, err := Parse(query(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if !tok.Verify(key, grant.Container, grant.Blob) {
		t.Error("the token does not verify")
	}
	if want := grant.Expiry.Truncate(time.Second); !tok.Expiry.Equal(want) || !tok.Allows("w") || !tok.Allows("cw") || tok.Allows("d") {
		t.Errorf("got %+v, want expiry %v and rw", tok, want)
	}
	for what, ok := range map[string]bool{
		"another key":       tok.Verify(append([]byte{1}, key...), grant.Container, grant.Blob),
		"another container": tok.Verify(key, "c2", grant.Blob),
		"another blob":      tok.Verify(key, grant.Container, grant.Blob+"2"),
		"a line feed":       tok.Verify(key, grant.Container, grant.Blob+"\n"),
	} {
		if ok {
			t.Errorf("%s verifies", what)
		}
	}
	// The signature covers what the client could change.
	for from, to := range map[string]string{"sp=rw": "sp=rwd", "se=2026": "se=2027"} {
		tok, err := Parse(query(t, strings.Replace(s, from, to, 1)))
		if err != nil || tok.Verify(key, grant.Container, grant.Blob) {
			t.Errorf("%s: error %v, or it verifies", to, err)
		}
	}
	// Clients that build the URL by hand leave a plus as it is.
	g := grant
	for range 50 {
		g.Blob += "x"
		raw := strings.NewReplacer("%2B", "+", "%2F", "/").Replace(g.Sign(key))
		if tok, err := Parse(query(t, raw)); err != nil || !tok.Verify(key, g.Container, g.Blob) {
			t.Fatalf("%q is refused: %v", raw, err)
		}
	}
}

func TestToken_Container(t *testing.T) {
	t.Parallel()
	g := Grant{Container: "c", Permissions: "rcwdl", Expiry: grant.Expiry}
	s := g.Sign(key)
	tok, err := Parse(query(t, s))
	if err != nil || !tok.Whole || !tok.Allows("l") {
		t.Fatalf("got %+v, error %v", tok, err)
	}
	for what, c := range map[string]struct {
		container, blob string
		want            bool
	}{
		"itself": {"c", "", true}, "a blob": {"c", "a", true}, "a deep blob": {"c", "a/b", true}, "another container": {"d", "a", false},
		"a container as a blob": {"c/a", "b", false}, "a line feed": {"c", "a\n", false},
	} {
		if got := tok.Verify(key, c.container, c.blob); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	// Neither kind of token passes for the other.
	one, err := Parse(query(t, Grant{Container: "c", Blob: "a", Permissions: "r", Expiry: grant.Expiry}.Sign(key)))
	if err != nil || one.Verify(key, "c", "") || one.Verify(key, "c", "b") {
		t.Errorf("a blob's token opens its container: %v", err)
	}
	forged, err := Parse(query(t, strings.Replace(grant.Sign(key), "sr=b", "sr=c", 1)))
	if err != nil || forged.Verify(key, "c", "") || forged.Verify(key, grant.Container, grant.Blob) {
		t.Errorf("a blob's token with another sr opens its container: %v", err)
	}
}

func TestParse_Malformed(t *testing.T) {
	t.Parallel()
	good := grant.Sign(key)
	for _, bad := range []string{
		"", "sig=x", good + "&sig=AAAA", good + "&sp=r", strings.Replace(good, "sr=b", "sr=s", 1), strings.Replace(good, "sp=rw", "sp=rl", 1), strings.Replace(good, "sv=", "sv=1", 1),
		strings.Replace(good, "sp=rw", "sp=", 1), strings.Replace(good, "sp=rw", "sp=rx", 1), strings.Replace(good, "se=2026", "se=x", 1),
		strings.Replace(good, "sp=rw", "sp="+strings.Repeat("r", maxQuery), 1),
	} {
		if _, err := Parse(query(t, bad)); err == nil {
			t.Errorf("%.100q was read", bad)
		}
	}
}

// FuzzParse: what verifies is what was signed, and nothing else.
func FuzzParse(f *testing.F) {
	f.Add(grant.Sign(key), "c", "d/a")
	f.Add("sv=2021-08-06&sr=b&sig=AAAA&se=2026-01-02T03%3A04%3A05Z&sp=rw", "", "")
	f.Add(Grant{Container: "c", Permissions: "rl", Expiry: grant.Expiry}.Sign(key), "c", "a")
	f.Fuzz(func(t *testing.T, s, container, blob string) {
		q, _ := url.ParseQuery(s)
		tok, err := Parse(q)
		if err != nil {
			if tok.Permissions != "" || tok.signature != nil {
				t.Error("a refused token is not empty")
			}
			return
		}
		if tok.Verify(key, container, blob) {
			g := Grant{Container: container, Blob: blob, Permissions: tok.Permissions, Expiry: tok.Expiry}
			if tok.Whole {
				g.Blob = ""
			}
			again, err := Parse(query(t, g.Sign(key)))
			if err != nil || string(again.signature) != string(tok.signature) {
				t.Errorf("%q verifies for %s/%s, which nobody signed", s, container, blob)
			}
		}
	})
}
