package privacy_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/privacy"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

func TestCommand(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"": "", "  ": "", "ls": "ls", "ls -l /home/ada": "ls [masked]", "\tcurl\tx": "curl [masked]",
		`"C:\Program Files\a.exe" /x`: `"C:\Program Files\a.exe" [masked]`, `'sh' -c x`: "'sh' [masked]", `"never closed x`: `"never [masked]`, `"a"`: `"a"`,
		// Variables that are set for the command.
		"PASSWORD=x": "PASSWORD=[masked]", "PASSWORD=x mysql -u root": "PASSWORD=[masked] mysql [masked]", "A=1 B=2 c": "A=[masked] B=[masked] c",
		`TOKEN="a b" curl x`: "TOKEN=[masked] curl [masked]", `TOKEN='a " b' curl`: "TOKEN=[masked] curl", `TOKEN=a\ b curl`: "TOKEN=[masked] curl",
		`T="a\" b" curl`: "T=[masked] curl", "A= b": "A=[masked] b", "A[0]=x B+=y c d": "A[0]=[masked] B+=[masked] c [masked]", "a.b=c d": "a.b=c [masked]",
		`T="never closed curl x`: "T=[masked]", "T=$(cat /etc/key) curl": "T=[masked] [masked]", "T=`cat key` curl": "T=[masked] [masked]", `T="$(cat key)" curl`: "T=[masked] [masked]",
		"T=x;curl y": "T=[masked] [masked]", `"T=a b" curl`: "[masked]", `'T=a' curl`: "[masked]", `"T=a b`: "[masked]", `T='$(x)' c`: "T=[masked] c",
		// Words that end without a space.
		"cd;PASSWORD=x y": "cd [masked]", "a|b": "a [masked]", "a>f": "a [masked]", "(cd x)": "[masked]", "$(cat key)": "[masked]", "a$(b)": "a [masked]", "`cat key`": "[masked]",
		"[ -f x ]": "[ [masked]", "$HOME/bin/a b": "$HOME/bin/a [masked]",
	} {
		if got := privacy.Command(line); got != want {
			t.Errorf("%q became %q, want %q", line, got, want)
		}
	}
}

// store is a privacy.Store in memory.
type store struct {
	text   []byte
	groups map[string]string
	err    error
	looks  int
}

func (s *store) Setting(context.Context, string) ([]byte, error) {
	s.looks++
	if s.text == nil {
		return nil, fault.New(fault.NotFound, "nothing is kept")
	}
	return s.text, s.err
}

func (s *store) UpdateSetting(_ context.Context, _ string, change func([]byte) ([]byte, error)) (err error) {
	text, err := change(s.text)
	if err == nil {
		s.text = text
	}
	return err
}

func (s *store) SecurityGroups(context.Context, []string) (map[string]string, error) {
	s.looks++
	return s.groups, s.err
}

func guard(t *testing.T, s privacy.Store) *privacy.Guard {
	t.Helper()
	g, err := privacy.New(privacy.Config{Store: s, Key: secret.New([]byte("k")), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

const body = `[{"Name":"ProcessCreate","Payload":[{"CommandLine":"a b","UserName":"ada"}]}]`

func message(device string) *iot.Message {
	return &iot.Message{Source: iot.Telemetry, From: iot.ID{Device: device}, Body: []byte(body), System: []bag.Property{{Name: "iothub-interface-id", Value: iot.SecurityInterface}}}
}

func masked(g *privacy.Guard, m *iot.Message) (users, commands bool) {
	g.Mask(m)
	return !strings.Contains(string(m.Body), `"ada"`), !strings.Contains(string(m.Body), `"a b"`)
}

func TestGuard_ByGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{groups: map[string]string{"desk": "office"}}
		g := guard(t, s)
		if u, c := masked(g, message("desk")); u || c {
			t.Error("masked without a policy")
		}
		looks := s.looks
		for range 100 {
			masked(g, message("desk"))
		}
		if s.looks != looks {
			t.Errorf("%d looks at the store in an instant", s.looks-looks)
		}
		if err := g.Put(t.Context(), "office", privacy.Policy{UserNames: true}); err != nil {
			t.Fatal(err)
		}
		if u, c := masked(g, message("desk")); !u || c {
			t.Errorf("the next message: users %t, commands %t", u, c)
		}
		if u, c := masked(g, message("other")); u || c {
			t.Error("a device of another group is masked")
		}
		plain := message("desk")
		plain.System = nil
		if u, _ := masked(g, plain); u {
			t.Error("telemetry is masked")
		}
		if err := g.Put(t.Context(), "default", privacy.Policy{CommandLines: true}); err != nil {
			t.Fatal(err)
		}
		if u, c := masked(g, message("other")); u || !c {
			t.Errorf("a device without a group: users %t, commands %t", u, c)
		}
		// Another server changes it; a second later it holds here.
		s.text = []byte(`{"office":{"commandLines":true}}`)
		time.Sleep(time.Second)
		if u, c := masked(g, message("desk")); u || !c {
			t.Errorf("changed elsewhere: users %t, commands %t", u, c)
		}
		if err := g.Put(t.Context(), "office", privacy.Policy{}); err != nil {
			t.Fatal(err)
		}
		if all, err := g.Policies(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("lifted: %v, %v", all, err)
		}
	})
}

// Who is not known is masked, and what cannot be read is not kept.
func TestGuard_WhenInDoubt(t *testing.T) {
	t.Parallel()
	s := &store{text: []byte(`{"office":{"commandLines":true}}`), err: errors.New("no database")}
	if u, c := masked(guard(t, s), message("desk")); !u || !c {
		t.Errorf("without a database: users %t, commands %t", u, c)
	}
	s = &store{text: []byte(`{"default":{"userNames":true}}`)}
	m := message("desk")
	m.Body = []byte(`{"UserName":"ada"`)
	guard(t, s).Mask(m)
	if strings.Contains(string(m.Body), "ada") || !strings.Contains(string(m.Body), "17 bytes") {
		t.Errorf("unreadable: %s", m.Body)
	}
}

func TestGuard_Refuses(t *testing.T) {
	t.Parallel()
	s := &store{}
	g := guard(t, s)
	if err := g.Put(t.Context(), "", privacy.Policy{UserNames: true}); !fault.Is(err, fault.Invalid) {
		t.Errorf("no name: %v", err)
	}
	for i := range privacy.MaxPolicies {
		if err := g.Put(t.Context(), "g"+strings.Repeat("x", i%60)+string(rune('a'+i/60)), privacy.Policy{UserNames: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Put(t.Context(), "one-more", privacy.Policy{UserNames: true}); !fault.Is(err, fault.QuotaExceeded) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := privacy.New(privacy.Config{Store: s}); err == nil {
		t.Error("without a key")
	}
	if a, b := g.Pseudonym("ada"), g.Pseudonym("bob"); a == b || a != g.Pseudonym("ada") || strings.Contains(a, "ada") {
		t.Errorf("pseudonyms %s, %s", a, b)
	}
}

// Nothing behind the first word is kept, and no value of a variable, whatever the line looks like.
func FuzzCommand(f *testing.F) {
	for _, line := range []string{"ls -l", `A="b c" d`, "A=$(x) b", `"a b" c`, "\\", `A=\`, "A['=b", "'"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "s3cret") || strings.Contains("[masked]", line) {
			return
		}
		for _, l := range []string{"A=s3cret" + line, `A="s3cret ` + line, "A='s3cret" + line, "ls " + line + " s3cret"} {
			got := privacy.Command(l)
			if strings.Contains(got, "s3cret") && !strings.ContainsAny(line, `"'`) {
				t.Errorf("%q became %q", l, got)
			}
		}
	})
}
