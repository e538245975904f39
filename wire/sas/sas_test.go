package sas

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// signRaw signs sr and se as they stand, the way a client with its own encoder does.
func signRaw(sr, se string) string {
	return base64.StdEncoding.EncodeToString(mac(testKey, sr+"\n"+se))
}

func TestParse_AcceptsWhatClientsSend(t *testing.T) {
	t.Parallel()
	const se = "1767225600"
	esc := url.QueryEscape
	for _, tt := range []struct {
		name, sr, se string
		format       string // with sr, sig, se
		keyName      string
	}{
		{"Node order", "hub%2Fdevices%2Fd", se, "SharedAccessSignature sr=%[1]s&sig=%[2]s&skn=&se=%[3]s", ""},
		{"lower-case hex of C", "hub%2fdevices%2fd", se, "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]s&skn=", ""},
		{"raw sr", "hub/devices/d", se, "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]s", ""},
		{"fields in another order", "hub", se, "SharedAccessSignature skn=device&se=%[3]s&sig=%[2]s&sr=%[1]s", "device"},
		{"names and scheme in another case", "hub", se, "sharedaccesssignature SR=%[1]s&Sig=%[2]s&SE=%[3]s&SKN=p%%20q", "p q"},
		{"empty and unknown fields", "hub", se, "SharedAccessSignature &sr=%[1]s&&x=y&sig=%[2]s&se=%[3]s&", ""},
		{"fractional expiry", "hub", se + ".25", "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]s", ""},
		{"azure-iothub with a port", "localhost:17619", se, "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]s&skn=iothubowner", "iothubowner"},
	} {
		for encoding, encode := range map[string]func(string) string{
			"encoded signature": esc,
			"lower-case hex":    strings.NewReplacer("+", "%2b", "/", "%2f", "=", "%3d").Replace,
			"raw signature":     func(s string) string { return s },
		} {
			t.Run(tt.name+"/"+encoding, func(t *testing.T) {
				t.Parallel()
				tok, err := Parse(fmt.Sprintf(tt.format, tt.sr, encode(signRaw(tt.sr, tt.se)), tt.se))
				if err != nil {
					t.Fatal(err)
				}
				if !tok.Verify(testKey) {
					t.Error("signature does not verify")
				}
				if tok.Resource != tt.sr || tok.KeyName != tt.keyName || tok.Expiry.Unix() != 1767225600 {
					t.Errorf("got %v, expiry %v", tok, tok.Expiry)
				}
			})
		}
	}
}

func TestParse_Expiry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		se   string
		want time.Time // zero: refused
	}{
		{"0", time.Unix(0, 0)},
		{"-5", time.Unix(0, 0)},
		{"1767225600.5", time.Unix(1767225600, 5e8)},
		{"1.5e9", time.Unix(1500000000, 0)},
		{"1767225600000", time.Unix(endOf9999, 0)},
		{"1e300", time.Unix(endOf9999, 0)},
		{"1e999", time.Time{}},
		{"NaN", time.Time{}},
		{"Inf", time.Time{}},
		{"0x10", time.Time{}},
		{"1 ", time.Time{}},
		{"-", time.Time{}},
	} {
		t.Run(tt.se, func(t *testing.T) {
			t.Parallel()
			tok, err := Parse("SharedAccessSignature sr=h&sig=" + signRaw("h", tt.se) + "&se=" + tt.se)
			if tt.want.IsZero() {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("error %v, want ErrMalformed", err)
				}
				return
			}
			if err != nil || !tok.Expiry.Equal(tt.want) || !tok.Verify(testKey) {
				t.Errorf("expiry %v, error %v; want %v and a good signature", tok.Expiry, err, tt.want)
			}
		})
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	sig := url.QueryEscape(signRaw("h", "1"))
	for _, tt := range []struct{ name, in string }{
		{"empty", ""},
		{"scheme only", "SharedAccessSignature"},
		{"other scheme", "Bearer sr=h&sig=" + sig + "&se=1"},
		{"two spaces", "SharedAccessSignature  sr=h&sig=" + sig + "&se=1"},
		{"tab", "SharedAccessSignature\tsr=h&sig=" + sig + "&se=1"},
		{"no sr", "SharedAccessSignature sig=" + sig + "&se=1"},
		{"empty sr", "SharedAccessSignature sr=&sig=" + sig + "&se=1"},
		{"no sig", "SharedAccessSignature sr=h&se=1"},
		{"no se", "SharedAccessSignature sr=h&sig=" + sig},
		{"field without equals sign", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&skn"},
		{"two resources", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&SR=other"},
		{"broken escape in sig", "SharedAccessSignature sr=h&sig=c2VjcmV0%2&se=1"},
		{"sig that is not base64", "SharedAccessSignature sr=h&sig=c2VjcmV0*&se=1"},
		{"broken escape in skn", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&skn=%"},
		{"too long", "SharedAccessSignature sr=h&se=1&sig=" + strings.Repeat("c2VjcmV0", MaxToken/8)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tok, err := Parse(tt.in)
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v, want ErrMalformed", err)
			}
			if tok.Resource != "" || tok.Signature != nil || tok.KeyName != "" || !tok.Expiry.IsZero() {
				t.Errorf("token %v with an error", tok)
			}
			if strings.Contains(err.Error(), sig) || strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("error quotes the signature: %v", err)
			}
		})
	}
}

func TestToken_VerifyRefuses(t *testing.T) {
	t.Parallel()
	parse := func(s string) Token {
		t.Helper()
		tok, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	good := parse(Sign("hub/devices/d", testKey, time.Unix(1767225600, 0), ""))
	other := good
	other.Resource = "hub/devices/d" // the same resource in another spelling is not what was signed
	short := good
	short.Signature = good.Signature[:16]
	forged := parse("SharedAccessSignature sr=h&se=9&sig=" + base64.StdEncoding.EncodeToString(mac(nil, "h\n9")))
	for name, ok := range map[string]bool{
		"another key":              good.Verify(testKey[1:]),
		"resource spelt otherwise": other.Verify(testKey),
		"shortened signature":      short.Verify(testKey),
		"signed with an empty key": forged.Verify(nil),
		"zero token":               Token{}.Verify(testKey),
	} {
		if ok {
			t.Errorf("%s: verified", name)
		}
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	expiry := time.Unix(1767225600, 999)
	text := Sign("hub.example/devices/a(b)", testKey, expiry, "my policy")
	const sr = "hub.example%2Fdevices%2Fa%28b%29"
	want := "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signRaw(sr, "1767225600")) + "&se=1767225600&skn=my%20policy"
	if text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	tok, err := Parse(text)
	if err != nil || !tok.Verify(testKey) || tok.KeyName != "my policy" || tok.Expiry.Unix() != expiry.Unix() {
		t.Errorf("parsed back: %v, %v", tok, err)
	}
	if text := Sign("hub", testKey, expiry, ""); strings.Contains(text, "skn") {
		t.Errorf("token without key name has skn: %s", text)
	}
}

// The vector of the DPS documentation, dps §2.2.
func TestDeriveKey(t *testing.T) {
	t.Parallel()
	group, err := base64.StdEncoding.DecodeString("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	if err != nil {
		t.Fatal(err)
	}
	got := base64.StdEncoding.EncodeToString(DeriveKey(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"))
	if want := "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="; got != want {
		t.Errorf("derived %s, want %s", got, want)
	}
}

func TestToken_ResourcePath(t *testing.T) {
	t.Parallel()
	for sr, want := range map[string]string{
		"0ne1/registrations/Reg-1":        "0ne1/registrations/Reg-1",
		"0ne1%2fregistrations%2fReg-1":    "0ne1/registrations/Reg-1",
		"0ne1%2Fregistrations%2FReg-1%2F": "0ne1/registrations/Reg-1",
	} {
		if got, err := (Token{Resource: sr}).ResourcePath(); err != nil || got != want {
			t.Errorf("ResourcePath of %s = %q, %v; want %q", sr, got, err, want)
		}
	}
	if got, err := (Token{Resource: "%zz"}).ResourcePath(); !errors.Is(err, ErrMalformed) || got != "" {
		t.Errorf("ResourcePath of %%zz = %q, %v; want ErrMalformed", got, err)
	}
}

func TestToken_PrintsWithoutSignature(t *testing.T) {
	t.Parallel()
	tok, err := Parse("SharedAccessSignature sr=hub&se=1&sig=" + base64.StdEncoding.EncodeToString([]byte("secret-signature")))
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("refused", "token", tok)
	texts := []string{log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		texts = append(texts, fmt.Sprintf(verb, tok), fmt.Sprintf(verb, []Token{tok}))
	}
	for _, s := range texts {
		if strings.Contains(s, "secret") || strings.Contains(s, "115 101") || strings.Contains(s, "0x73") || !strings.Contains(s, "sr=hub") {
			t.Errorf("shown as %s", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Sign("hub.example/devices/d", testKey, time.Unix(1767225600, 0), "device"))
	f.Add("SharedAccessSignature sr=h&sig=AA==&se=1.5")
	f.Add("sharedaccesssignature se=1e9&sr=sb%3A%2F%2Fh%3A5671%2Fe%3Fapi-version%3D1&sig=AAAA&skn=%24p")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err != nil {
			if tok.Resource != "" || tok.Signature != nil || tok.se != "" || !tok.Expiry.IsZero() {
				t.Fatalf("Parse(%q) = %v with error %v", s, tok, err)
			}
			return
		}
		scope, err := tok.Scope()
		if err != nil {
			return
		}
		if !scope.Covers([]string{strings.ToUpper(scope.Host), scope.Host}, append(scope.Path, "below")...) {
			t.Fatalf("%+v of %q does not cover itself", scope, s)
		}
		resource, err := tok.ResourcePath()
		if err != nil || resource == "" {
			return
		}
		// A token signed by us for the same things says the same.
		again, err := Parse(Sign(resource, testKey, tok.Expiry, tok.KeyName))
		if err != nil {
			if len(resource) > MaxToken/8 || len(tok.KeyName) > MaxToken/8 { // escapes make it longer
				return
			}
			t.Fatal(err)
		}
		path, err := again.ResourcePath()
		if err != nil || path != resource || again.KeyName != tok.KeyName || !again.Verify(testKey) ||
			strconv.FormatInt(tok.Expiry.Unix(), 10) != again.se {
			t.Fatalf("%v signed again is %v, %v", tok, again, err)
		}
	})
}
