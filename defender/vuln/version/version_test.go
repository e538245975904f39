package version

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// ascending checks that a list of groups of equal versions ascends, in both directions of comparison.
func ascending(t *testing.T, name string, compare Compare, groups ...[]string) {
	t.Helper()
	for i, a := range groups {
		for j, b := range groups {
			for _, x := range a {
				for _, y := range b {
					if got, want := sgn(compare(x, y)), sgn(i-j); got != want {
						t.Errorf("%s: %q and %q: %d, want %d", name, x, y, got, want)
					}
				}
			}
		}
	}
}

func sgn(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestOrders(t *testing.T) {
	t.Parallel()
	each := func(all ...string) (groups [][]string) {
		for _, g := range all {
			groups = append(groups, strings.Fields(g))
		}
		return groups
	}
	ascending(t, "deb", Deb, each("1.0~~", "1.0~~a", "1.0~", "1.0 1.0-0 0:1.0 01.0", "1.0-1", "1.0-1ubuntu1", "1.0-1+b1", "1.0-1+deb12u1", "1.0a", "1.0+", "1.2", "1.10", "1:0.1")...)
	ascending(t, "rpm", RPM, each("1.0~rc1", "1.0 0:1.0 1.0.", "1.0^git1", "1.0.1", "1.0.1a", "1.0.2 1_0_2", "1.10", "1:0.1-1", "1:0.1-2.el9")...)
	ascending(t, "apk", Apk, each("1.2_alpha", "1.2_alpha2", "1.2_beta", "1.2_pre1", "1.2_rc1", "1.2_rc1_p1", "1.2", "1.2-r0", "1.2-r1", "1.2-r10", "1.2_git20200101", "1.2_p1", "1.2_p1-r3",
		"1.2a", "1.2b", "1.2.05", "1.2.1", "1.2.10", "1.10", "2")...)
	ascending(t, "semantic", Semantic, each("0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0 v1.0 1 1.0.0+build", "1.0.0.1", "1.2", "1.10")...)
	ascending(t, "pep440", PEP440, each("latest", "1.0.dev1", "1.0a1.dev2", "1.0a1 1.0alpha1 v1.0-a.1", "1.0b2", "1.0b2.post1", "1.0rc1 1.0c1", "1.0 1 1.0.0 0!1.0", "1.0+abc", "1.0+abc.1", "1.0+1", "1.0.post1 1.0-1", "1.1.dev1", "1.1", "1.10", "1!0.1")...)
}

func TestFor(t *testing.T) {
	t.Parallel()
	for _, e := range []string{"Debian:12", "Ubuntu:22.04", "Alpine:v3.18", "Red Hat:9", "Rocky Linux:9", "Azure Linux:3", "Go", "npm", "crates.io", "PyPI"} {
		if For(e) == nil {
			t.Errorf("%s has no order", e)
		}
	}
	if For("Packagist") != nil {
		t.Error("an order that is not known is told")
	}
}

// alphabet gives the texts that make pairs of versions collide.
func texts(r *rand.Rand, alphabet string) string {
	b := []byte{byte('0' + r.IntN(10))}
	for range r.IntN(9) {
		b = append(b, alphabet[r.IntN(len(alphabet))])
	}
	return string(b)
}

// near changes a text a little, for pairs that begin alike.
func near(r *rand.Rand, s, alphabet string) string {
	b := []byte(s)
	switch i := r.IntN(len(b)); r.IntN(3) {
	case 0:
		b[i] = alphabet[r.IntN(len(alphabet))]
	case 1:
		b = b[:i+1]
	default:
		b = append(b, alphabet[r.IntN(len(alphabet))])
	}
	b[0] = s[0]
	return string(b)
}

// dpkg itself is the judge.
func TestDeb_AsDpkg(t *testing.T) {
	t.Parallel()
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("dpkg, the judge of this test, is not on this machine")
	}
	r := rand.New(rand.NewPCG(1, 2))
	var script strings.Builder
	type pair struct{ a, b string }
	var pairs []pair
	for range 600 {
		a := texts(r, "0019.~+-ab")
		b := near(r, a, "0019.~+-ab")
		if r.IntN(4) == 0 {
			b = texts(r, "019.~+-ab")
		}
		if r.IntN(5) == 0 {
			a = fmt.Sprintf("%d:%s", r.IntN(3), a)
		}
		if strings.HasSuffix(a, "-") || strings.HasSuffix(b, "-") { // dpkg refuses an empty revision
			continue
		}
		pairs = append(pairs, pair{a, b})
		fmt.Fprintf(&script, "if %[1]s --compare-versions '%[2]s' lt '%[3]s'; then echo -1; elif %[1]s --compare-versions '%[2]s' gt '%[3]s'; then echo 1; else echo 0; fi\n", dpkg, a, b)
	}
	judged(t, script.String(), len(pairs), func(i int) (string, string, int) { return pairs[i].a, pairs[i].b, sgn(Deb(pairs[i].a, pairs[i].b)) })
}

// judged runs a script that prints what the real tool says of each pair.
func judged(t *testing.T, script string, pairs int, ours func(i int) (a, b string, order int)) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	n := 0
	for ; lines.Scan(); n++ {
		a, b, got := ours(n)
		if fmt.Sprint(got) != strings.TrimSpace(lines.Text()) {
			t.Errorf("%q and %q: %d, the judge says %s", a, b, got, lines.Text())
		}
	}
	if n != pairs || n == 0 {
		t.Errorf("%d of %d pairs were judged", n, pairs)
	}
}

// rpm itself is the judge: its Lua knows how it compares.
func TestRPM_AsRPM(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip("rpm, the judge of this test, is not on this machine")
	}
	r := rand.New(rand.NewPCG(3, 4))
	type pair struct{ a, b string }
	var pairs []pair
	var script, lua strings.Builder
	for range 4000 {
		a := texts(r, "0019.~^_ab")
		b := near(r, a, "0019.~^_ab")
		if r.IntN(4) == 0 {
			b = texts(r, "019.~^_ab")
		}
		if r.IntN(3) == 0 {
			a, b = a+"-1.el9", b+"-2.el9"
		}
		if r.IntN(5) == 0 {
			a = fmt.Sprintf("%d:%s", r.IntN(3), a)
		}
		pairs = append(pairs, pair{a, b})
		fmt.Fprintf(&lua, "print(rpm.vercmp('%s','%s')..'\\n')\n", a, b)
		if len(pairs)%1000 == 0 { // an argument has 128 KiB at most
			script.WriteString("rpm --eval \"$(cat <<'E'\n%{lua:" + lua.String() + "}\nE\n)\" | grep .\n")
			lua.Reset()
		}
	}
	judged(t, script.String(), len(pairs), func(i int) (string, string, int) {
		return pairs[i].a, pairs[i].b, sgn(RPM(pairs[i].a, pairs[i].b))
	})
}

// Any two texts have an order, and it turns around when they do.
func FuzzOrders(f *testing.F) {
	f.Add("1:1.0~rc1-1", "1.0^2_alpha1-r3", "1!1.0a1.post2.dev3+x.1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for name, compare := range map[string]Compare{"deb": Deb, "rpm": RPM, "apk": Apk, "semantic": Semantic, "pep440": PEP440} {
			if compare(a, a) != 0 {
				t.Errorf("%s: %q differs from itself", name, a)
			}
			if sgn(compare(a, b)) != -sgn(compare(b, a)) {
				t.Errorf("%s: %q and %q depend on the side", name, a, b)
			}
			if name == "deb" && compare(a, b) <= 0 && compare(b, c) <= 0 && compare(a, c) > 0 {
				t.Errorf("%s: %q, %q and %q go round", name, a, b, c)
			}
		}
	})
}
