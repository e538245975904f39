package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const good = `
hostname = "hub.plant.example"
listen = "0.0.0.0"
master_key = "secrets/master.key"
pki = "/var/lib/vauban/pki"

[store]
kind = "postgres"
url_file = "secrets/postgres"

[bus]
urls = "nats://a:4222,nats://b:4222"
replicas = 3

[log]
level = "warn"
`

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vauban.toml")
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, []string{"VAUBAN_MQTT_PORT=1883", "VAUBAN_LOG_FORMAT=json", "HOME=/root"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "hub.plant.example" || c.MQTTPort != 1883 || c.HTTPSPort != 443 || c.Store.Kind != "postgres" || c.Bus.Replicas != 3 || c.Log.Format != "json" {
		t.Errorf("loaded %+v", c)
	}
	if want := filepath.Join(dir, "secrets/postgres"); c.Store.URLFile != want || c.PKI != "/var/lib/vauban/pki" {
		t.Errorf("paths are %q and %q, want the first relative to the file: %q", c.Store.URLFile, c.PKI, want)
	}
	origins := map[string]string{}
	for _, v := range c.Values() {
		origins[v.Key] = v.Value + " " + v.Origin
	}
	for key, want := range map[string]string{
		"mqtt_port": "1883 $VAUBAN_MQTT_PORT", "https_port": "443 default", "bus.replicas": "3 " + path + ":13:1",
		"log.level": `"warn" ` + path + ":16:1", "listen": `"0.0.0.0" ` + path + ":3:1",
	} {
		if origins[key] != want {
			t.Errorf("%s is %s, want %s", key, origins[key], want)
		}
	}
}

// Every bad file in testdata has its complaints in its first comment lines.
func TestLoad_Refuses(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad files: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(text)) {
			w, ok := strings.CutPrefix(strings.TrimSpace(line), "#! ")
			if ok {
				want = append(want, w)
			}
		}
		_, err = parse(filepath.Base(file), "/etc/vauban", text, nil)
		if err == nil || err.Error() != strings.Join(want, "\n") {
			t.Errorf("%s: got\n%v\nwant\n%s", file, err, strings.Join(want, "\n"))
		}
	}
	if _, err := parse("f", "/", []byte(good), []string{"VAUBAN_MQTT_PORT=many", "VAUBAN_STORE_KIND=x"}); err == nil ||
		err.Error() != "$VAUBAN_MQTT_PORT: mqtt_port: want a whole number\n$VAUBAN_STORE_KIND: store.kind: unknown word \"x\" (want \"sqlite\" or \"postgres\")" {
		t.Errorf("a bad environment: got %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml"), nil); err == nil || !strings.Contains(err.Error(), "name one with --config") {
		t.Errorf("a missing file: got %v", err)
	}
}

// Closed alerts are kept for three months, and never for less than the log keeps messages.
func TestLoad_AlertDays(t *testing.T) {
	for text, want := range map[string]string{good: "90", "alert_days = 30\n" + good: "30", "alert_days = 6\n" + good: "alert_days"} {
		c, err := parse("f", "/etc/vauban", []byte(text), nil)
		if err == nil {
			if got := fmt.Sprint(c.AlertDays); got != want {
				t.Errorf("%s days, want %s", got, want)
			}
		} else if !strings.Contains(err.Error(), want+": 6 is outside 7 to 3650") {
			t.Error(err)
		}
	}
}

// Static RSA is off unless the file says true.
func TestLoad_StaticRSA(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{good: "false", "static_rsa = true\n" + good: "true", "static_rsa = false\n" + good: "false", "static_rsa = 1\n" + good: "f:1:1: static_rsa"} {
		c, err := parse("f", "/etc/vauban", []byte(text), nil)
		if err == nil {
			if got := fmt.Sprint(c.StaticRSA); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		} else if err.Error() != want+`: "1" is neither true nor false` {
			t.Error(err)
		}
	}
}

// Throttles are off unless the file says otherwise.
func TestLoad_Throttle(t *testing.T) {
	t.Parallel()
	c, err := parse("f", "/", []byte(good), nil)
	if err != nil || c.Throttle.Tier != "" || c.Throttle.Limits != nil {
		t.Errorf("without a table: %+v, %v", c, err)
	}
	c, err = parse("f", "/", []byte(good+`
[throttle]
tier = "S1"
units = 2
twin_reads = "50/s"
cloud_to_device_sends = "0.5/min"
daily_messages = "off"
`), []string{"VAUBAN_THROTTLE_TELEMETRY=10/s"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Throttle); got != "{S1 2 map[cloudToDeviceSends:0.5/min dailyMessages:off telemetry:10/s twinReads:50/s]}" {
		t.Errorf("got %s", got)
	}
	for _, bad := range []string{`twin_reads = "fast"`, `twin_reads = "0/s"`, `twin_reads = "1/day"`, `daily_messages = "1/s"`, `twin_reads = 5`, `tea = "1/s"`, `tier = "S4"`, `units = 2`} {
		if _, err := parse("f", "/", []byte(good+"\n[throttle]\n"+bad+"\n"), nil); err == nil || !strings.Contains(err.Error(), "throttle.") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Who signs in how is safe unless the file says otherwise.
func TestLoad_SignIn(t *testing.T) {
	t.Parallel()
	c, err := parse("f", "/", []byte(good), nil)
	if err != nil || fmt.Sprint(c.SignIn) != "{invited 15m0s 336h0m0s 2160h0m0s []}" {
		t.Errorf("without a table: %+v, %v", c.SignIn, err)
	}
	c, err = parse("f", "/etc/vauban", []byte(good+`
[signin]
registration = "loopback"
access_token = "5m"

[signin.provider.plant-2]
issuer = "https://id.plant.example"
client_id = "vauban"
client_secret_file = "secrets/plant"
accept = "anyone"
mail_domains = "plant.example, Works.example"

[signin.provider.corp]
title = "Corporate account"
issuer = "https://login.corp.example/v2"
client_id = "0001"
`), []string{"VAUBAN_SIGNIN_PROVIDER_PLANT_2_CLIENT_ID=other", "VAUBAN_SIGNIN_SESSION=1000h"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{loopback 5m0s 336h0m0s 1000h0m0s [{corp Corporate account https://login.corp.example/v2 0001  invited } ` +
		`{plant-2 plant-2 https://id.plant.example other /etc/vauban/secrets/plant anyone plant.example, Works.example}]}`
	if got := fmt.Sprint(c.SignIn); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := fmt.Sprint(c.SignIn.Providers[1].DomainList(), c.SignIn.Providers[0].DomainList() == nil); got != "[plant.example works.example] true" {
		t.Errorf("domains: %s", got)
	}
	shown := 0
	for _, v := range c.Values() {
		if strings.HasPrefix(v.Key, "signin.provider.corp.") && v.Origin != "default" {
			shown++
		}
	}
	if shown != 3 {
		t.Errorf("%d values of a provider are shown with their origin, want 3", shown)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(good + "[signin.provider.a]\nissuer = \"https://x\"\nclient_id = \"c\"\n[signin.provider.\"\".b]\nc = 1\n"))
	f.Add([]byte("[store]\nkind = 1\n[[bus]]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse("f.toml", "/etc", text, nil)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v with error %v", c, err)
		}
	})
}
