package posture_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
	"github.com/vauban-iot/vauban/storage/storagetest"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// bench is everything that makes recommendations, over a real store: the detector that reads the log, and the judge.
type bench struct {
	t      testing.TB
	store  *sqlstore.Store
	book   *posture.Book
	judge  *posture.Judge
	links  *posture.Links
	handle func(bus.Entry) error
	now    time.Time
	entry  uint64

	filter *ipfilter.Filter
	cas    []posture.Authority
	logged bool
}

// ear is a log whose reader is called directly.
type ear chan func(bus.Entry) error

func (e ear) Work(ctx context.Context, _ string, handle func(bus.Entry) error) error {
	e <- handle
	<-ctx.Done()
	return nil
}

var morning = time.Date(2026, 3, 4, 8, 0, 0, 0, time.UTC)

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, now: morning, logged: true}
	var err error
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b.store, err = sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "state.db"), Sealer: storagetest.Sealer(t)})
	check(err)
	t.Cleanup(func() { b.store.Close() })
	b.setFilter(`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[]}}`)
	b.book = posture.NewBook(b.store, b.store)
	b.links, err = posture.NewLinks(b.store, nil, nil)
	check(err)
	b.judge, err = posture.NewJudge(posture.JudgeConfig{
		Store: b.store, Disabled: b.book.Disabled, Now: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler),
		Network:     func(context.Context) (*ipfilter.Filter, error) { return b.filter, nil },
		Authorities: func(context.Context) ([]posture.Authority, error) { return b.cas, nil },
		Logged:      func() bool { return b.logged },
	})
	check(err)
	watcher, err := posture.NewWatcher(b.store, b.book.Disabled, nil)
	check(err)
	log := make(ear)
	nothing := intel.NewSet()
	detector, err := defender.New(defender.Config{Log: log, Intel: func() *intel.Set { return nothing }, Alerts: b.store, Reported: watcher.Reported, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- detector.Run(ctx) }()
	b.handle = <-log
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) setFilter(text string) {
	b.t.Helper()
	f, err := ipfilter.Parse([]byte(text))
	b.check(err)
	b.filter = f
}

// look lets a minute pass, and the judge look.
func (b *bench) look() {
	b.t.Helper()
	b.now = b.now.Add(time.Minute)
	b.check(b.judge.Look(b.t.Context()))
}

// say puts a security message on the log, and has the detector read it.
func (b *bench) say(from iot.ID, mti, body string) {
	b.t.Helper()
	b.now = b.now.Add(time.Minute)
	b.entry++
	m := &iot.Message{
		Source: iot.Telemetry, From: from, Enqueued: b.now, Body: []byte(body),
		System: []bag.Property{{Name: "iothub-interface-id", Value: iot.SecurityInterface}},
	}
	if mti != "" {
		m.Properties = []bag.Property{{Name: "mti", Value: mti}}
	}
	b.check(b.handle(bus.Entry{Sequence: b.entry, Data: telemetry.Batch(m)}))
}

const v1 = `{"AgentVersion":"0.0.5","AgentId":"a8cd1d2c-0000-0000-0000-000000000001","MessageSchemaVersion":"1.0","Events":[%s]}`

// event is one of JSON 1.0.
func event(name, payload string) string {
	return fmt.Sprintf(`{"EventType":"Security","Category":"Periodic","Name":%q,"IsEmpty":%t,"PayloadSchemaVersion":"1.0","Id":"a8cd1d2c-0000-0000-0000-000000000002","TimestampLocal":"2026-03-04T09:00:00","TimestampUTC":"2026-03-04T08:00:00","Payload":%s}`,
		name, payload == "[]", payload)
}

// report is a message of JSON 1.0 with one event.
func (b *bench) report(from iot.ID, name, payload string) {
	b.t.Helper()
	b.say(from, "", fmt.Sprintf(v1, event(name, payload)))
}

// micro is a message of the later schema with one event, in JSON.
func (b *bench) micro(from iot.ID, kind, payload string) {
	b.t.Helper()
	b.say(from, "2.3-0-1-0", fmt.Sprintf(`{"security_module_id":"defender-iot-micro-agent","security_module_version":67108864,"events":[{"time":%d,"payload_type":%q,"payload":%s}]}`, b.now.Unix(), kind, payload))
}

// linux is a message of the Linux agent with one event.
func (b *bench) linux(from iot.ID, e secmsg.Event) {
	b.t.Helper()
	e.Time = b.now
	b.say(from, secmsg.IndicatorJSON, string(secmsg.AppendJSON(nil, secmsg.Report{Agent: from.Module, AgentVersion: "1.2.3", Events: []secmsg.Event{e}})))
}

// signed is how devices prove themselves of which nothing else matters.
var signed = registry.Authentication{Type: registry.CertificateAuthority}

// add registers a device or a module.
func (b *bench) add(id iot.ID, a registry.Authentication, desired, reported, tags string) {
	b.t.Helper()
	tw := twin.New(id)
	var err error
	if desired != "" {
		tw, _, err = tw.Apply(twin.Patch{Desired: json.RawMessage(desired), HasDesired: true}, b.now)
		b.check(err)
	}
	if reported != "" {
		tw, err = tw.ApplyReported([]byte(reported), 0, b.now)
		b.check(err)
	}
	if tags != "" {
		tw.Tags = json.RawMessage(tags)
	}
	b.check(b.store.Create(b.t.Context(), registry.Identity{ID: id, Generation: "1", ETag: "1", Status: registry.Enabled, Authentication: a, Edge: id.Module == "" && strings.HasPrefix(id.Device, "edge")}, tw))
}

func (b *bench) authenticate(id iot.ID, a registry.Authentication) {
	b.t.Helper()
	_, err := b.store.Update(b.t.Context(), id, func(d registry.Identity) (registry.Identity, error) {
		d.Authentication = a
		return d, nil
	})
	b.check(err)
}

func (b *bench) change(id iot.ID, desired string) {
	b.t.Helper()
	b.now = b.now.Add(time.Minute)
	_, err := b.store.UpdateTwin(b.t.Context(), id, func(t twin.Twin) (twin.Twin, error) {
		next, _, err := t.Apply(twin.Patch{Desired: json.RawMessage(desired), HasDesired: true}, b.now)
		return next, err
	})
	b.check(err)
}

func (b *bench) reports(id iot.ID, reported string) {
	b.t.Helper()
	_, err := b.store.UpdateTwin(b.t.Context(), id, func(t twin.Twin) (twin.Twin, error) {
		return t.ApplyReported([]byte(reported), 0, b.now)
	})
	b.check(err)
}

func (b *bench) remove(id iot.ID) {
	b.t.Helper()
	b.check(b.store.Delete(b.t.Context(), id, func(registry.Identity) error { return nil }, func(registry.Identity, twin.Twin) []iot.Message { return nil }))
}

// connect tells of a connection as the hub does.
func (b *bench) connect(c iot.Credentials) {
	b.t.Helper()
	b.links.Seen(c)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b.check(b.links.Run(ctx)) // writes what is left
}

func key(n byte) secret.Secret { return secret.New(slices.Repeat([]byte{n}, 32)) }

// keys are a pair of keys of type SAS.
func keys(one, two byte) registry.Authentication {
	return registry.Authentication{Type: registry.SAS, PrimaryKey: key(one), SecondaryKey: key(two)}
}

// stands returns the recommendation of a type about somebody.
func (b *bench) stands(kind string, about iot.ID) (posture.Recommendation, bool) {
	b.t.Helper()
	r, err := b.store.Recommendation(b.t.Context(), posture.ID(kind, about))
	if fault.Is(err, fault.NotFound) {
		return r, false
	}
	b.check(err)
	return r, true
}

// want checks the state of a recommendation; "" wants that there is none.
func (b *bench) want(when, kind string, about iot.ID, state posture.State) posture.Recommendation {
	b.t.Helper()
	r, ok := b.stands(kind, about)
	if state == "" && ok || state != "" && r.State != state {
		b.t.Fatalf("%s: %s about %q is %q, want %q; data %s", when, kind, about, r.State, state, r.Data)
	}
	return r
}

var (
	dev    = iot.ID{Device: "d"}
	agent1 = iot.ID{Device: "d", Module: posture.AgentModule}
	agent2 = iot.ID{Device: "d", Module: posture.MicroAgentModule}
	edge   = iot.ID{Device: "edge"}
)

// certificate is one from a time on, for so many days.
func certificate(from time.Time, days int) []*x509.Certificate {
	return []*x509.Certificate{{NotBefore: from, NotAfter: from.AddDate(0, 0, days)}}
}

const firewall = `{"Enabled":true,"Action":%q,"Priority":%d,"ChainName":%q,"Direction":%q,"Protocol":%q,"SourceAddress":%q,"DestinationAddress":%q,"DestinationPort":%q}`

// chains are the rules of a firewall: those given, and policies.
func chains(in, out string, rules ...string) string {
	rules = append(rules, fmt.Sprintf(firewall, in, 90, "INPUT", "In", "", "", "", ""), fmt.Sprintf(firewall, out, 91, "OUTPUT", "Out", "", "", "", ""))
	return "[" + strings.Join(rules, ",") + "]"
}

const deployed = `{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"registryCredentials":{%s}}},
	"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":"a","createOptions":"{}"}},"edgeHub":{"type":"docker","settings":{"image":"h","createOptions":"{}"},"env":{"mqttSettings__enabled":{"value":%s}}}},
	"modules":{"tempSensor":{"type":"docker","settings":{"image":"s","createOptions":%q}}}}`

// deploy sets the desired properties of $edgeAgent anew.
func (b *bench) deploy(registries, mqtt, options string) {
	b.change(iot.ID{Device: "edge", Module: registry.EdgeAgent}, fmt.Sprintf(deployed, registries, mqtt, options))
}

// cases make each type of defender §2.4, and ours, happen and go away.
var cases = []struct {
	kind      string // the type; several cases may have the same
	about     iot.ID
	severity  alert.Severity
	data      string // that the additional data holds
	before    func(*bench)
	bad, good func(*bench)
}{
	{
		posture.SharedCredentials, iot.ID{Device: "x"}, alert.High, `"Credential":"symmetric key","Identities":2,"Others":["y"]`,
		func(b *bench) {
			b.add(iot.ID{Device: "x"}, keys(1, 2), "", "", "")
			b.add(iot.ID{Device: "y"}, keys(3, 4), "", "", "")
		},
		func(b *bench) { b.authenticate(iot.ID{Device: "y"}, keys(4, 1)) },
		func(b *bench) { b.authenticate(iot.ID{Device: "y"}, keys(5, 6)) },
	},
	{
		posture.SharedCredentials, iot.ID{Device: "x"}, alert.High, `"Credential":"certificate thumbprint","Identities":2,"Others":["y/m"]`,
		func(b *bench) {
			b.add(iot.ID{Device: "x"}, registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.Repeat("A", 40)}, "", "", "")
			b.add(iot.ID{Device: "y"}, signed, "", "", "")
			b.add(iot.ID{Device: "y", Module: "m"}, signed, "", "", "")
		},
		func(b *bench) {
			b.authenticate(iot.ID{Device: "y", Module: "m"}, registry.Authentication{Type: registry.SelfSigned, SecondaryThumbprint: strings.Repeat("a", 40)})
		},
		func(b *bench) {
			b.authenticate(iot.ID{Device: "y", Module: "m"}, registry.Authentication{Type: registry.SelfSigned, SecondaryThumbprint: strings.Repeat("B", 40)})
		},
	},
	{
		posture.VulnerableTLSCipherSuite, dev, alert.Medium, `{"Version":"TLS 1.2","CipherSuite":"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"}`, nil,
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Remote: "192.0.2.1:1", TLSVersion: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256})
		},
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Remote: "192.0.2.1:2", TLSVersion: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256})
		},
	},
	{
		posture.IPFilterDenyAll, iot.ID{}, alert.Medium, `{"DefaultAction":"Allow"}`, nil,
		func(b *bench) {
			b.setFilter(`{"ipFilterRules":[{"filterName":"x","action":"Reject","ipMask":"0.0.0.0/0"}]}`)
		}, // of IPv6 nothing is said
		func(b *bench) {
			b.setFilter(`{"ipFilterRules":[{"filterName":"x","action":"Reject","ipMask":"0.0.0.0/0"},{"filterName":"y","action":"Reject","ipMask":"::/0"}]}`)
		},
	},
	{
		posture.IPFilterPermissiveRule, iot.ID{}, alert.Medium, `{"Rules":[{"filterName":"world","action":"Allow","ipMask":"192.0.0.0/8"}]}`, nil,
		func(b *bench) {
			b.setFilter(`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[{"filterName":"plant","action":"Allow","ipMask":"10.0.0.0/8"},{"filterName":"world","action":"Allow","ipMask":"192.0.0.0/8"}]}}`)
		},
		func(b *bench) {
			b.setFilter(`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[{"filterName":"plant","action":"Allow","ipMask":"10.0.0.0/8"},{"filterName":"site","action":"Allow","ipMask":"2001:db8::/32"}]}}`)
		},
	},
	{
		posture.RecommendedIPRules, iot.ID{}, alert.Medium, `{"Rules":[{"filterName":"devices-1","action":"Allow","ipMask":"192.0.2.0/28"},{"filterName":"devices-2","action":"Allow","ipMask":"2001:db8::/64"}]}`,
		func(b *bench) {
			for i := range 12 {
				remote := fmt.Sprintf("192.0.2.%d:1000", i)
				if i == 11 {
					remote = "[2001:db8::7]:1"
				}
				id := iot.ID{Device: fmt.Sprint("n", i)}
				b.add(id, signed, "", "", "")
				b.connect(iot.Credentials{ID: id, Remote: remote})
			}
			b.add(iot.ID{Device: "here"}, signed, "", "", "")
			b.connect(iot.Credentials{ID: iot.ID{Device: "here"}, Remote: "127.0.0.1:1"})
		},
		func(b *bench) { b.setFilter(`{}`) },
		func(b *bench) { b.setFilter(`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[]}}`) },
	},
	{
		posture.InconsistentModuleSettings, iot.ID{Device: "m3", Module: "pump"}, alert.Medium, `{"SecurityGroup":"plant"}`,
		func(b *bench) {
			for _, d := range []string{"m1", "m2", "m3"} {
				b.add(iot.ID{Device: d}, signed, "", "", `{"SecurityGroup":"plant"}`)
				b.add(iot.ID{Device: d, Module: "pump"}, signed, `{"speed":3,"mode":{"a":1,"b":2}}`, "", "")
			}
		},
		func(b *bench) { b.change(iot.ID{Device: "m3", Module: "pump"}, `{"speed":4}`) },
		func(b *bench) { b.change(iot.ID{Device: "m3", Module: "pump"}, `{"speed":3}`) },
	},
	{
		posture.InstallAgent, iot.ID{Device: "bare"}, alert.Low, `{"Modules":["azureiotsecurity","DefenderIotMicroAgent"]}`,
		func(b *bench) { b.add(iot.ID{Device: "bare"}, signed, "", "", "") },
		func(b *bench) { b.remove(iot.ID{Device: "bare", Module: posture.AgentModule}) },
		func(b *bench) { b.add(iot.ID{Device: "bare", Module: posture.AgentModule}, signed, "", "", "") },
	},
	{
		posture.DiagnosticsLogs, iot.ID{}, alert.Low, `{"Source":"deviceConnectionStateEvents"}`, nil,
		func(b *bench) { b.logged = false },
		func(b *bench) { b.logged = true },
	},
	{
		posture.ExpiringCertificate, dev, alert.Medium, `{"NotAfter":"2026-03-`, nil,
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Certificates: certificate(b.now.AddDate(0, -11, 0), 345)})
		},
		func(b *bench) { b.connect(iot.Credentials{ID: dev, Certificates: certificate(b.now, 345)}) },
	},
	{ // one of a day that is renewed all the time is as it should be
		posture.ExpiringCertificate, dev, alert.Medium, `{"NotAfter":"2026-03-04T`, nil,
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Certificates: certificate(b.now.Add(-20*time.Hour), 1)})
		},
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Certificates: certificate(b.now.Add(-time.Hour), 1)})
		},
	},
	{
		posture.OldCertificate, dev, alert.Low, `{"NotBefore":"2023-`, nil,
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Certificates: certificate(b.now.AddDate(-3, 0, 0), 9999)})
		},
		func(b *bench) {
			b.connect(iot.Credentials{ID: dev, Certificates: certificate(b.now.AddDate(-1, 0, 0), 9999)})
		},
	},
	{
		posture.ExpiringAuthority, iot.ID{}, alert.High, `{"Authorities":[{"Name":"plant","NotAfter":"2026-0`, nil,
		func(b *bench) {
			b.cas = []posture.Authority{{Name: "new", NotAfter: b.now.AddDate(5, 0, 0)}, {Name: "plant", NotAfter: b.now.AddDate(0, 2, 0)}}
		},
		func(b *bench) { b.cas = []posture.Authority{{Name: "new", NotAfter: b.now.AddDate(5, 0, 0)}} },
	},
	{
		posture.SymmetricKey, dev, alert.Low, `{"Authentication":"sas"}`, nil,
		func(b *bench) { b.authenticate(dev, keys(1, 2)) },
		func(b *bench) { b.authenticate(dev, signed) },
	},
	{
		posture.OldFirmware, iot.ID{Device: "f3"}, alert.Medium, `{"Model":"ACME lamp","FirmwareVersion":"1.9.2","NewestVersion":"1.10.0"}`,
		func(b *bench) {
			for _, d := range []string{"f1", "f2", "f3"} {
				b.add(iot.ID{Device: d}, signed, "", `{"firmwareVersion":"1.10.0","deviceInformation":{"__t":"c","manufacturer":"ACME","model":"lamp"}}`, "")
			}
		},
		func(b *bench) { b.reports(iot.ID{Device: "f3"}, `{"firmwareVersion":"1.9.2"}`) },
		func(b *bench) { b.reports(iot.ID{Device: "f3"}, `{"firmwareVersion":"1.10.0"}`) },
	},
	{
		posture.PrivilegedDockerOptions, edge, alert.High, `{"Modules":[{"Module":"tempSensor","Options":["Privileged","CapAdd NET_ADMIN","NetworkMode host","Binds /var/run/docker.sock"]}]}`, nil,
		func(b *bench) {
			b.deploy("", "false", `{"HostConfig":{"Privileged":true,"CapAdd":["NET_ADMIN"],"NetworkMode":"host","Binds":["/var/run/docker.sock:/var/run/docker.sock"]}}`)
		},
		func(b *bench) {
			b.deploy("", "false", `{"HostConfig":{"Privileged":false,"NetworkMode":"bridge","Binds":["/data:/data"]}}`)
		},
	},
	{
		posture.ACRAuthentication, edge, alert.Medium, `{"Registries":["acme.azurecr.io"]}`, nil,
		func(b *bench) {
			b.deploy(`"acme":{"address":"Acme.azurecr.io","username":"acme","password":"never shown"},"hub":{"address":"docker.io","username":"me","password":"p"}`, "false", "{}")
		},
		func(b *bench) {
			b.deploy(`"acme":{"address":"acme.azurecr.io","username":"0b1f8f6e-8d2f-4c53-9f6b-0d2a3c4b5e6f","password":"never shown"}`, "false", "{}")
		},
	},
	{
		posture.EdgeHubMemOptimize, edge, alert.Low, `"mqttSettings__enabled"`, nil,
		func(b *bench) { b.deploy("", `"true"`, "{}") },
		func(b *bench) { b.deploy("", `"false"`, "{}") },
	},
	{
		posture.EdgeLoggingOptions, edge, alert.Low, `{"Modules":[{"Module":"tempSensor"}]}`, nil,
		func(b *bench) { b.deploy("", "false", `{"HostConfig":{"LogConfig":{"Type":"none"}}}`) },
		func(b *bench) {
			b.deploy("", "false", `{"HostConfig":{"LogConfig":{"Type":"json-file","Config":{"max-size":"10m"}}}}`)
		},
	},
	{
		posture.OpenPorts, agent1, alert.Medium, `{"OpenPorts":[{"Protocol":"TCP","LocalAddress":"0.0.0.0","LocalPort":8888}]}`, nil,
		func(b *bench) {
			b.report(agent1, "ListeningPorts", `[{"Protocol":"tcp","LocalPort":"8888","LocalAddress":"0.0.0.0","RemotePort":"*","RemoteAddress":"0.0.0.0","ExtraDetails":{"Pid":"12"}},
				{"Protocol":"tcp","LocalPort":"631","LocalAddress":"127.0.0.1"},{"Protocol":"udp","LocalPort":"43210","LocalAddress":"0.0.0.0"},{"Protocol":"udp","LocalPort":68}]`)
		},
		func(b *bench) {
			b.report(agent1, "ListeningPorts", `[{"Protocol":"tcp","LocalPort":"631","LocalAddress":"::1"}]`)
		},
	},
	{
		posture.OpenPorts, dev, alert.Medium, `{"OpenPorts":[{"Protocol":"TCP","LocalAddress":"192.168.1.10","LocalPort":23}]}`, nil,
		func(b *bench) {
			b.micro(dev, "ListeningPorts", `{"ipv4_ports":[{"local_address":167880896,"common":{"local_port":23,"protocol":"TCP"}},{"local_address":16777343,"common":{"local_port":25,"protocol":"TCP"}}]}`)
		},
		func(b *bench) { b.micro(dev, "ListeningPorts", `{}`) },
	},
	{
		posture.PermissiveFirewallPolicy, agent1, alert.Medium, `{"Chains":["INPUT","OUTPUT"]}`, nil,
		func(b *bench) { b.report(agent1, "FirewallConfiguration", chains("Allow", "Allow")) },
		func(b *bench) { b.report(agent1, "FirewallConfiguration", chains("Deny", "Deny")) },
	},
	{
		posture.PermissiveInputRules, agent1, alert.Medium, `{"Rules":"[{\"Priority\":\"2\",\"Direction\":\"In\",\"ChainName\":\"INPUT\",\"Action\":\"Allow\",\"Protocol\":\"TCP\",\"SourceAddress\":\"0.0.0.0/0\",\"DestinationPort\":\"22\"}]"}`, nil,
		func(b *bench) {
			b.report(agent1, "FirewallConfiguration", chains("Deny", "Deny", fmt.Sprintf(firewall, "Allow", 2, "INPUT", "In", "TCP", "0.0.0.0/0", "", "22"), fmt.Sprintf(firewall, "Deny", 3, "INPUT", "In", "TCP", "", "", "")))
		},
		func(b *bench) {
			b.report(agent1, "FirewallConfiguration", chains("Deny", "Deny", fmt.Sprintf(firewall, "Allow", 2, "INPUT", "In", "TCP", "10.0.0.0/8", "", "22")))
		},
	},
	{
		posture.PermissiveOutputRules, agent1, alert.Medium, `1:65535`, nil,
		func(b *bench) {
			b.report(agent1, "FirewallConfiguration", chains("Deny", "Deny", fmt.Sprintf(firewall, "Allow", 1, "OUTPUT", "Out", "TCP", "", "192.0.2.1", "1:65535")))
		},
		func(b *bench) {
			b.report(agent1, "FirewallConfiguration", chains("Deny", "Deny", fmt.Sprintf(firewall, "Allow", 1, "OUTPUT", "Out", "TCP", "", "192.0.2.1", "8883,443")))
		},
	},
	{
		posture.Baseline, agent1, alert.Medium, `{"Failed":2,"Checks":[{"CheckId":"CCE-3","Severity":"CRITICAL","Description":"core dumps"},{"CheckId":"CCE-1","Severity":"WARNING","Description":"umask"}]}`, nil,
		func(b *bench) {
			b.report(agent1, "OSBaseline", `[{"Description":"umask","CceId":"CCE-1","Result":"FAIL","Error":"","Severity":"Warning"},{"Description":"x","CceId":"CCE-2","Result":"Err","Error":"no such file","Severity":"Critical"},
				{"Description":"core dumps","CceId":"CCE-3","Result":"Fail","Error":"","Severity":"Critical"}]`)
		},
		func(b *bench) { b.report(agent1, "OSBaseline", `[]`) },
	},
	{
		posture.CISBenchmarks + "_DIoTTest", agent2, alert.High, `{"CheckId":"DIoTTest","Severity":"CRITICAL","Description":"the trigger file is there","Remediation":"delete it"}`, nil,
		func(b *bench) {
			b.micro(agent2, "Baseline", `{"baseline_checks":[{"id":"CIS-debian-9-Filesystem-1.1.2","result":"PASS","severity":"CRITICAL"},{"id":"DIoTTest","result":"FAIL","severity":"CRITICAL","description":"the trigger file is there","remediation":"delete it"}]}`)
		},
		func(b *bench) {
			b.micro(agent2, "Baseline", `{"baseline_checks":[{"id":"CIS-debian-9-Filesystem-1.1.2","result":"PASS","severity":"CRITICAL"},{"id":"DIoTTest","result":"PASS","severity":"CRITICAL"}]}`)
		},
	},
	{
		posture.AgentSendsUnutilized, agent1, alert.Low, `{"MessagesSent":`, nil,
		func(b *bench) {
			b.now = b.now.Add(25 * time.Hour)
			b.report(agent1, "MessageStatistics", `[{"MessagesSent":10,"MessagesUnder4KB":1,"TotalFailed":0}]`)
		},
		func(b *bench) {
			b.report(agent1, "MessageStatistics", `[{"MessagesSent":"90","MessagesUnder4KB":"0","TotalFailed":"0"}]`)
		},
	},
	{
		posture.TwinNotOptimal, agent1, alert.Low, `"Settings":[{"ConfigurationName":"MaxLocalCacheSizeInBytes","UsedConfiguration":"10","Message":"too small"}]`, nil,
		func(b *bench) {
			b.report(agent1, "ConfigurationError", `[{"ConfigurationName":"MaxLocalCacheSizeInBytes","ErrorType":"NotOptimal","UsedConfiguration":"10","Message":"too small"},{"ConfigurationName":"x","ErrorType":"TypeMismatch","UsedConfiguration":"y","Message":"z"}]`)
		},
		func(b *bench) { b.change(agent1, fmt.Sprintf(`{"x":%d}`, b.now.Unix())) },
	},
	{
		posture.TwinConflict, agent1, alert.Low, `"Settings":[{"ConfigurationName":"a","UsedConfiguration":"b","Message":"c"}]`, nil,
		func(b *bench) {
			b.report(agent1, "ConfigurationError", `[{"ConfigurationName":"a","ErrorType":"Conflict","UsedConfiguration":"b","Message":"c"}]`)
		},
		func(b *bench) { b.change(agent1, fmt.Sprintf(`{"x":%d}`, b.now.Unix())) },
	},
	{
		posture.TwinConflict, agent2, alert.Low, `{"LatestInvalidFields":"[\"Process_Mode\"]"}`, nil,
		func(b *bench) {
			b.reports(agent2, `{"latest_state":"failed","latest_invalid_fields":["Process_Mode"]}`)
		},
		func(b *bench) { b.reports(agent2, `{"latest_state":"success","latest_invalid_fields":null}`) },
	},
}

// Each type becomes active, resolves itself, comes back, and is switched off and on.
func TestTypes(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-24")
	for _, c := range cases {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.add(dev, signed, "", "", "")
			b.add(agent1, signed, "", "", "")
			b.add(agent2, signed, "", "", "")
			b.add(edge, signed, "", "", "")
			b.add(iot.ID{Device: "edge", Module: registry.EdgeAgent}, signed, "", "", "")
			if c.before != nil {
				c.before(b)
			}
			c.good(b)
			b.look()
			b.want("as it should be", c.kind, c.about, "")
			c.bad(b)
			b.look()
			first := b.want("at first", c.kind, c.about, posture.Active)
			if first.Severity != c.severity || !strings.Contains(string(first.Data), c.data) || !json.Valid(first.Data) {
				t.Errorf("severity %s, data %s, want %s and %s", first.Severity, first.Data, c.severity, c.data)
			}
			b.look()
			if again := b.want("looked at again", c.kind, c.about, posture.Active); again.Sequence != first.Sequence {
				t.Errorf("nothing changed, but it was written again: %+v", again)
			}
			c.good(b)
			b.look()
			b.want("when it was set right", c.kind, c.about, posture.Resolved)
			c.bad(b)
			b.look()
			back := b.want("when it came back", c.kind, c.about, posture.Active)
			if back.ID != first.ID || !back.FirstEvaluated.Equal(first.FirstEvaluated) || !back.Discovered.After(first.Discovered) {
				t.Errorf("its history is lost: %+v after %+v", back, first)
			}
			// recommendationsConfiguration is this switch.
			n, err := b.book.Enable(t.Context(), false, b.now, c.kind)
			if b.check(err); n == 0 {
				t.Error("nothing was resolved when the type was disabled")
			}
			b.want("when it was disabled", c.kind, c.about, posture.Resolved)
			c.good(b)
			c.bad(b)
			b.look()
			b.want("while it is disabled", c.kind, c.about, posture.Resolved)
			_, err = b.book.Enable(t.Context(), true, b.now, c.kind)
			b.check(err)
			c.good(b)
			b.look()
			c.bad(b)
			b.look()
			b.want("when it was enabled", c.kind, c.about, posture.Active)
			for _, r := range all(b) {
				if text := string(r.Data); strings.Contains(text, "never shown") || strings.Contains(text, key(1).Base64()) {
					t.Errorf("%s tells a secret: %s", r.Type, text)
				}
			}
		})
	}
	judged := []string{posture.VulnerableSoftware} // by defender/vuln, whose own test has its case
	for _, c := range cases {
		judged = append(judged, posture.Family(c.kind))
	}
	for _, k := range posture.Types() {
		if !slices.Contains(judged, k.Name) {
			t.Errorf("no case for %s", k.Name)
		}
		if k.Title == "" || k.Description == "" || len(k.Remediation) == 0 || k.DetectedBy == "" || k.Needs == "" || len(k.ID) != 36 {
			t.Errorf("%s says too little: %+v", k.Name, k)
		}
	}
	for _, name := range strings.Fields(typesOfAzure) {
		if k := posture.Lookup(name); k.Own || k.Data == "" || !posture.Known(name) {
			t.Errorf("Azure's type %s is not known", name)
		}
	}
}

// typesOfAzure are the ids of defender §2.4.
const typesOfAzure = `IoT_SharedCredentials IoT_PrivilegedDockerOptions IoT_ACRAuthentication IoT_VulnerableTLSCipherSuite IoT_IPFilter_DenyAll IoT_IPFilter_PermissiveRule
	IoT_RecommendedIpRulesByBaseLine IoT_InconsistentModuleSettings IoT_EdgeHubMemOptimize IoT_EdgeLoggingOptions IoT_OpenPorts IoT_PermissiveFirewallPolicy
	IoT_PermissiveInputFirewallRules IoT_PermissiveOutputFirewallRules IoT_Baseline IoT_CISBenchmarks_DIoTTest IoT_AgentSendsUnutilizedMessages IoT_InstallAgent`

func all(b *bench) []posture.Recommendation {
	b.t.Helper()
	list, err := b.store.Recommendations(b.t.Context(), posture.Filter{Limit: 1000})
	b.check(err)
	return list
}
