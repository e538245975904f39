package connstr

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     String
		reveal   string // empty: as in
	}{
		{
			name: "device",
			in:   "HostName=h.example;DeviceId=d;SharedAccessKey=a2V5MQ==",
			want: String{HostName: "h.example", DeviceID: "d", SharedAccessKey: "a2V5MQ=="},
		},
		{
			name: "service",
			in:   "HostName=h.example;SharedAccessKeyName=iothubowner;SharedAccessKey=a2V5MQ==",
			want: String{HostName: "h.example", SharedAccessKeyName: "iothubowner", SharedAccessKey: "a2V5MQ=="},
		},
		{
			name:   "module behind a gateway, in any order and case",
			in:     " gatewayhostname=gw ;; MODULEID=m;deviceid=d;hostname=h;sharedaccesskey=a==;\n",
			want:   String{HostName: "h", DeviceID: "d", ModuleID: "m", SharedAccessKey: "a==", GatewayHostName: "gw"},
			reveal: "HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=a==;GatewayHostName=gw",
		},
		{
			name:   "certificate",
			in:     "HostName=h;DeviceId=d;x509=True",
			want:   String{HostName: "h", DeviceID: "d", X509: true},
			reveal: "HostName=h;DeviceId=d;x509=true",
		},
		{
			name:   "unknown names",
			in:     "HostName=h;DeviceId=d;Colour=red;x509=false",
			want:   String{HostName: "h", DeviceID: "d"},
			reveal: "HostName=h;DeviceId=d",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("Parse(%q):\n%s", tt.in, cmp.Diff(tt.want.Reveal(), got.Reveal()))
			}
			if tt.reveal == "" {
				tt.reveal = tt.in
			}
			if got := got.Reveal(); got != tt.reveal {
				t.Errorf("Reveal = %q, want %q", got, tt.reveal)
			}
		})
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in string }{
		{"empty", ""},
		{"no host", "DeviceId=d;SharedAccessKey=c2VjcmV0"},
		{"empty host", "HostName=;DeviceId=d"},
		{"part without equals sign", "HostName=h;c2VjcmV0"},
		{"name given twice", "HostName=h;SharedAccessKey=c2VjcmV0;sharedaccesskey=c2VjcmV0"},
		{"too long", "HostName=h;SharedAccessKey=" + strings.Repeat("c2VjcmV0", MaxLength/8)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tt.in)
			if !errors.Is(err, ErrMalformed) || got != (String{}) {
				t.Fatalf("error %v, want ErrMalformed and the zero String", err)
			}
			if strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("error quotes the key: %v", err)
			}
		})
	}
}

func TestString_HidesTheKey(t *testing.T) {
	t.Parallel()
	c := String{HostName: "h", DeviceID: "d", SharedAccessKey: "c2VjcmV0"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("dialling", "conn", c)
	texts := []string{c.String(), log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, c), fmt.Sprintf(verb, &c), fmt.Sprintf(verb, []String{c}))
	}
	for _, s := range texts {
		if strings.Contains(s, "c2VjcmV0") || !strings.Contains(s, "DeviceId=d") {
			t.Errorf("shown as %s", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("HostName=h;DeviceId=d;SharedAccessKey=a2V5MQ==")
	f.Add(" HostName = h ;x509=true;;A=b")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			if c != (String{}) {
				t.Fatalf("Parse(%q) is not zero with error %v", s, err)
			}
			return
		}
		again, err := Parse(c.Reveal())
		if err != nil || again != c {
			t.Fatalf("%q revealed as %q came back as %q, %v", s, c.Reveal(), again.Reveal(), err)
		}
	})
}
