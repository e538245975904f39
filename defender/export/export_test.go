package export

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

func TestConfig_Check(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString([]byte("k"))
	for _, c := range []struct {
		config Config
		want   string // of the refusal; empty: there is none
	}{
		{Config{Kind: Files}, ""},
		{Config{Kind: Webhook, URL: "https://x.example/in", Token: "t"}, ""},
		{Config{Kind: Webhook, URL: "http://127.0.0.1:8080/in", Token: "t"}, ""},
		{Config{Kind: Webhook, URL: "https://x.example/in", Headers: map[string]string{"Authorization": "Splunk x"}}, ""},
		{Config{Kind: Syslog, Address: "siem.example:6514"}, ""},
		{Config{Kind: Syslog, Address: "siem.example:514", Transport: UDP, Format: OCSF}, ""},
		{Config{Kind: LogAnalytics, URL: "https://ws.ods.example/api/logs?api-version=2016-04-01", Workspace: "ws", SharedKey: key}, ""},
		{Config{Kind: "kafka"}, "its kind must be one of"},
		{Config{}, "its kind must be one of"},
		{Config{Kind: Files, Name: "../x"}, "the name of an export has"},
		{Config{Kind: Files, Data: []Data{"logs"}}, "its data must be some of"},
		{Config{Kind: Files, Data: []Data{Alerts, Alerts}}, "each once"},
		{Config{Kind: Files, Format: "xml"}, "its format must be"},
		{Config{Kind: Files, Format: CEF}, "the format cef is for syslog"},
		{Config{Kind: Syslog, Address: "a:1", Format: Table}, "too long for syslog"},
		{Config{Kind: LogAnalytics, Format: OCSF}, "takes the format table only"},
		{Config{Kind: Files, MinSeverity: "Grave"}, "its minSeverity must be"},
		{Config{Kind: Files, Product: "sentinel"}, "the product is vauban or azure"},
		{Config{Kind: Files, From: "yesterday"}, "from the beginning"},
		{Config{Kind: Files, GiveUpAfter: "1s"}, "its giveUpAfter must be"},
		{Config{Kind: Files, GiveUpAfter: "200h"}, "its giveUpAfter must be"},
		{Config{Kind: Files, MaxBytes: 5}, "its maxBytes must be at least"},
		{Config{Kind: Files, URL: "https://x.example"}, "url is for exports of the kind"},
		{Config{Kind: Syslog, Address: "a:1", Token: "t"}, "token is for exports of the kind"},
		{Config{Kind: Webhook, URL: "https://x.example", Key: "k"}, "key is for exports of the kind"},
		{Config{Kind: Webhook}, "its url must be"},
		{Config{Kind: Webhook, URL: "ftp://x.example"}, "its url must be"},
		{Config{Kind: Webhook, URL: "https://u:p@x.example"}, "its url must be"},
		{Config{Kind: Webhook, URL: "http://x.example", SigningKey: "k"}, "secrets over plain http"},
		{Config{Kind: Webhook, URL: "https://x.example", Body: "xml"}, "its body must be"},
		{Config{Kind: Webhook, URL: "https://x.example", Headers: map[string]string{"a b": "c"}}, "cannot be a header"},
		{Config{Kind: Webhook, URL: "https://x.example", Headers: map[string]string{"a": "c\r\nd: e"}}, "cannot be a header"},
		{Config{Kind: Webhook, URL: "https://x.example", Headers: map[string]string{"content-type": "c"}}, "is set by Vauban itself"},
		{Config{Kind: Webhook, URL: "https://x.example", Headers: map[string]string{"authorization": "c"}, Token: "t"}, "is set by Vauban itself"},
		{Config{Kind: Webhook, URL: "https://x.example", Token: "a\nb"}, "its token cannot"},
		{Config{Kind: Webhook, URL: "https://x.example", CA: "no"}, "its ca holds no certificate"},
		{Config{Kind: LogAnalytics, URL: "https://x.example", SharedKey: key}, "the id of the workspace"},
		{Config{Kind: LogAnalytics, URL: "https://x.example", Workspace: "w", SharedKey: "*"}, "its sharedKey is"},
		{Config{Kind: Syslog}, "its address must be host:port"},
		{Config{Kind: Syslog, Address: "siem.example"}, "its address must be host:port"},
		{Config{Kind: Syslog, Address: "a:1", Transport: "quic"}, "its transport must be"},
		{Config{Kind: Syslog, Address: "a:1", Transport: TCP, ServerName: "b"}, "over tcp nobody is verified"},
		{Config{Kind: Syslog, Address: "a:1", Certificate: "c"}, "needs its key"},
		{Config{Kind: Syslog, Address: "a:1", Certificate: "c", Key: "k"}, "do not go together"},
	} {
		if c.config.Name == "" {
			c.config.Name = "x"
		}
		err := c.config.Check()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c.config.Redacted(), err)
		case c.want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: %v, want a refusal with %q", c.config.Redacted(), err, c.want)
		}
	}
}

// Secrets are not shown, stay when they are given as shown, and do not follow an export to another place.
func TestManager_Secrets(t *testing.T) {
	t.Parallel()
	m, store := over(t, Config{Kind: Webhook, URL: "https://x.example/in", Token: "s3cret1", SigningKey: "s3cret2", Headers: map[string]string{"K": "s3cret3"}})
	shown, err := m.Export(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	all, err := m.Exports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v %+v", shown, all); strings.Contains(text, "s3cret") || shown.Token != redacted {
		t.Errorf("shown: %s", text)
	}
	shown.MinSeverity = "High"
	if _, _, err := m.Put(t.Context(), shown.Config); err != nil {
		t.Fatal(err)
	}
	if c := store.exports["x"].Config; c.Token != "s3cret1" || c.SigningKey != "s3cret2" || c.Headers["K"] != "s3cret3" || c.MinSeverity != "High" {
		t.Errorf("changed: %+v", c)
	}
	cert := newReceives(t)
	for what, c := range map[string]func(c *Config){
		"another port":                        func(c *Config) { c.URL = "https://x.example:8443/in" },
		"another certificate that is trusted": func(c *Config) { c.CA = cert.ca() },
	} {
		moved := shown.Config
		c(&moved)
		if _, _, err := m.Put(t.Context(), moved); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "again") {
			t.Errorf("%s, with its secrets: %v", what, err)
		}
	}
	moved := shown.Config
	moved.URL = "https://evil.example/in"
	if _, _, err := m.Put(t.Context(), moved); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "again") {
		t.Errorf("moved with its secrets: %v", err)
	}
	moved.Token, moved.SigningKey, moved.Headers = "n1", "", nil
	if _, _, err := m.Put(t.Context(), moved); err != nil {
		t.Errorf("moved with new ones: %v", err)
	}
	fresh := shown.Config
	fresh.Name = "y"
	if _, _, err := m.Put(t.Context(), fresh); !fault.Is(err, fault.Invalid) {
		t.Errorf("a new one with no secrets: %v", err)
	}
}

// Neither does the key of the certificate that is shown to a syslog server, when the server has another name or trust.
func TestManager_SecretsOfSyslog(t *testing.T) {
	t.Parallel()
	cert := newReceives(t)
	own, key := pair(t)
	m, _ := over(t, Config{Kind: Syslog, Address: "siem.example:6514", Certificate: own, Key: key})
	shown, err := m.Export(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]func(c *Config){
		"another name": func(c *Config) { c.ServerName = "other.example" }, "another certificate": func(c *Config) { c.CA = cert.ca() },
	} {
		moved := shown.Config
		c(&moved)
		if _, _, err := m.Put(t.Context(), moved); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "again") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := m.Put(t.Context(), shown.Config); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// pair is a certificate with its key.
func pair(t *testing.T) (certificate, key string) {
	t.Helper()
	c := newReceives(t).TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
