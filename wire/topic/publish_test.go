package topic

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/wire/bag"
)

// idChars is every special character Azure allows in a device id, but for # and +, which MQTT forbids in topic names.
const idChars = "a-.%_*?!(),:=@$'"

func TestParsePublish(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     Publish
	}{
		{"device telemetry", "devices/d/messages/events/", Publish{Kind: Telemetry, Device: "d"}},
		{"without the last slash", "devices/d/messages/events", Publish{Kind: Telemetry, Device: "d"}},
		{"with a bag", "devices/d/messages/events/a=1&b", Publish{Kind: Telemetry, Device: "d", Bag: "a=1&b"}},
		{"slash after the bag", "devices/d/messages/events/a=1/", Publish{Kind: Telemetry, Device: "d", Bag: "a=1/"}},
		{"question mark before the bag", "devices/d/messages/events/?a=1", Publish{Kind: Telemetry, Device: "d", Bag: "?a=1"}},
		{"module output of Node", "devices/d/modules/m/messages/events/%24.on=alerts/", Publish{Kind: Telemetry, Device: "d", Module: "m", Bag: "%24.on=alerts/"}},
		{"module without bag", "devices/d/modules/m/messages/events", Publish{Kind: Telemetry, Device: "d", Module: "m"}},
		{"ids of special characters", "devices/" + idChars + "/modules/" + idChars + "/messages/events/", Publish{Kind: Telemetry, Device: idChars, Module: idChars}},
		{"ids are not decoded", "devices/a%2Fb/messages/events/", Publish{Kind: Telemetry, Device: "a%2Fb"}},
		{"device named modules", "devices/modules/messages/events/", Publish{Kind: Telemetry, Device: "modules"}},
		{"module named messages", "devices/d/modules/messages/messages/events", Publish{Kind: Telemetry, Device: "d", Module: "messages"}},
		{"twin GET", "$iothub/twin/GET/?$rid=0", Publish{Kind: TwinGet, RID: "0"}},
		{"rid is raw", "$iothub/twin/GET/?$rid=a%20b=c/", Publish{Kind: TwinGet, RID: "a%20b=c/"}},
		{"twin PATCH", "$iothub/twin/PATCH/properties/reported/?$rid=7f", Publish{Kind: TwinPatchReported, RID: "7f"}},
		{"twin PATCH with base version", "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=12", Publish{Kind: TwinPatchReported, RID: "1", Version: 12, HasVersion: true}},
		{"twin PATCH of base version 0", "$iothub/twin/PATCH/properties/reported/?$version=0&$rid=1", Publish{Kind: TwinPatchReported, RID: "1", HasVersion: true}},
		{"twin PATCH with empty version", "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=", Publish{Kind: TwinPatchReported, RID: "1"}},
		{"method result", "$iothub/methods/res/200/?$rid=1a", Publish{Kind: MethodResult, Status: 200, RID: "1a"}},
		{"negative method result", "$iothub/methods/res/-2147483648/?$rid=1", Publish{Kind: MethodResult, Status: -2147483648, RID: "1"}},
		{"largest method result", "$iothub/methods/res/2147483647/?$rid=1", Publish{Kind: MethodResult, Status: 2147483647, RID: "1"}},
		{"DPS register", "$dps/registrations/PUT/iotdps-register/?$rid=u-1", Publish{Kind: DPSRegister, RID: "u-1"}},
		{"DPS status", "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=4.a.b", Publish{Kind: DPSStatus, RID: "1", OperationID: "4.a.b"}},
		{"DPS status without operation", "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1", Publish{Kind: DPSStatus, RID: "1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePublish(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParsePublish(%q) (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func TestParsePublish_Refuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]error{
		"":                                    ErrUnknown,
		"test":                                ErrUnknown,
		"/devices/d/messages/events/":         ErrUnknown,
		"devices/":                            ErrUnknown,
		"devices/d":                           ErrUnknown,
		"devices//messages/events/":           ErrUnknown,
		"devices/d/modules//messages/events/": ErrUnknown,
		"devices/d/modules/m":                 ErrUnknown,
		"devices/d/messages/eventsX":          ErrUnknown,
		"devices/d/messages/events?a=1":       ErrUnknown,
		"devices/d/messages/Events/":          ErrUnknown,
		"Devices/d/messages/events/":          ErrUnknown,
		"devices/d/messages/devicebound/":     ErrUnknown,
		"$iothub/":                            ErrUnknown,
		"$iothub/twin/get/?$rid=1":            ErrUnknown,
		"$iothub/twin/GETX/?$rid=1":           ErrUnknown,
		"$iothub/twin/GET/$rid=1":             ErrUnknown,
		"$iothub/twin/res/200/?$rid=1":        ErrUnknown,
		"$iothub/credentials/POST/issueCertificateX/?$rid=1":               ErrUnknown,
		"$iothub/credentials/POST/?$rid=1":                                 ErrUnknown,
		"$iothub/credentials/res/200/?$rid=1":                              ErrUnknown,
		"$iothub/twin/PATCH/properties/desired/?$rid=1":                    ErrUnknown,
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x":        ErrUnknown,
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=-1":       ErrUnknown,
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=9e9":      ErrUnknown,
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=" + nines: ErrUnknown,
		"$iothub/methods/res/?$rid=1":                                      ErrUnknown,
		"$iothub/methods/res//?$rid=1":                                     ErrUnknown,
		"$iothub/methods/res/+1/?$rid=1":                                   ErrUnknown,
		"$iothub/methods/res/--1/?$rid=1":                                  ErrUnknown,
		"$iothub/methods/res/2147483648/?$rid=1":                           ErrUnknown,
		"$iothub/methods/res/00000000200/?$rid=1":                          ErrUnknown,
		"$iothub/twin/GET":                                                 ErrNoRID,
		"$iothub/twin/GET/":                                                ErrNoRID,
		"$iothub/twin/GET/?":                                               ErrNoRID,
		"$iothub/twin/GET/?$rid=":                                          ErrNoRID,
		"$iothub/twin/GET/?rid=1":                                          ErrNoRID,
		"$iothub/methods/res/200":                                          ErrNoRID,
		"$iothub/twin/PATCH/properties/reported/?$version=1":               ErrNoRID,
		"$iothub/credentials/POST/issueCertificate/":                       ErrNoRID,
		"$iothub/credentials/POST/issueCertificate/?$rid=":                 ErrNoRID,
		"$dps/registrations/PUT/iotdps-register/?":                         ErrNoRID,
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			if got, err := ParsePublish(in); !errors.Is(err, want) || got != (Publish{}) {
				t.Errorf("ParsePublish(%q) = %+v, %v; want the zero Publish, %v", in, got, err, want)
			}
		})
	}
}

const nines = "9999999999999999999"

func TestErrUnknown_IsShort(t *testing.T) {
	t.Parallel()
	_, err := ParsePublish(strings.Repeat("x", 60_000))
	if err == nil || len(err.Error()) > 300 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func TestAppend_IsWhatTheServerReads(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		topic []byte
		text  string
		want  Publish
	}{
		{AppendTelemetry(nil, "d", ""), "devices/d/messages/events/", Publish{Kind: Telemetry, Device: "d"}},
		{AppendTelemetry(nil, "d", "m"), "devices/d/modules/m/messages/events/", Publish{Kind: Telemetry, Device: "d", Module: "m"}},
		{AppendTwinGet(nil, "1"), "$iothub/twin/GET/?$rid=1", Publish{Kind: TwinGet, RID: "1"}},
		{AppendTwinPatch(nil, "2"), "$iothub/twin/PATCH/properties/reported/?$rid=2", Publish{Kind: TwinPatchReported, RID: "2"}},
		{AppendMethodResult(nil, -7, "3"), "$iothub/methods/res/-7/?$rid=3", Publish{Kind: MethodResult, Status: -7, RID: "3"}},
		{AppendCredentialRequest(nil, "db8c-1"), "$iothub/credentials/POST/issueCertificate/?$rid=db8c-1", Publish{Kind: CredentialRequest, RID: "db8c-1"}},
		{AppendDPSRegister(nil, "4"), "$dps/registrations/PUT/iotdps-register/?$rid=4", Publish{Kind: DPSRegister, RID: "4"}},
		{AppendDPSStatus(nil, "5", "4.op"), "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=5&operationId=4.op", Publish{Kind: DPSStatus, RID: "5", OperationID: "4.op"}},
	} {
		if string(tt.topic) != tt.text {
			t.Errorf("appended %s, want %s", tt.topic, tt.text)
		}
		if got, err := ParsePublish(string(tt.topic)); err != nil || got != tt.want {
			t.Errorf("ParsePublish(%s) = %+v, %v; want %+v", tt.topic, got, err, tt.want)
		}
	}
}

// appendPublish writes p back in its canonical form.
func appendPublish(p Publish) []byte {
	switch p.Kind {
	case Telemetry:
		return append(AppendTelemetry(nil, p.Device, p.Module), p.Bag...)
	case TwinGet:
		return AppendTwinGet(nil, p.RID)
	case TwinPatchReported:
		return AppendTwinPatch(nil, p.RID)
	case MethodResult:
		return AppendMethodResult(nil, p.Status, p.RID)
	case CredentialRequest:
		return AppendCredentialRequest(nil, p.RID)
	case DPSRegister:
		return AppendDPSRegister(nil, p.RID)
	default:
		return AppendDPSStatus(nil, p.RID, p.OperationID)
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{
		"devices/d/messages/events", "devices/d/modules/m/messages/events/?a=1/", "$iothub/twin/GET/?$rid=1",
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=2", "$iothub/methods/res/-1/?x&$rid=1", "$iothub/credentials/POST/issueCertificate/?$rid=1",
		"$dps/registrations/PUT/iotdps-register/?$rid=1", "$dps/registrations/GET/iotdps-get-operationstatus/?operationId=a&$rid=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePublish(s)
		if err != nil {
			if p != (Publish{}) {
				t.Fatalf("ParsePublish(%q) = %+v with error %v", s, p, err)
			}
			return
		}
		text := string(appendPublish(p))
		p.Version, p.HasVersion = 0, false // no Append writes the base version
		if again, err := ParsePublish(text); err != nil || again != p {
			t.Fatalf("%q appended as %q is %+v, %v; was %+v", s, text, again, err, p)
		}
	})
}

func BenchmarkParsePublish_Telemetry(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePublish("devices/device-0001/messages/events/%24.ct=application%2Fjson"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSystemNames(t *testing.T) {
	t.Parallel()
	for _, n := range systemNames {
		if got, ok := SystemName(n.key); !ok || got != n.canonical {
			t.Errorf("SystemName(%q) = %q, %v; want %q", n.key, got, ok, n.canonical)
		}
		if got, ok := BagKey(n.canonical); !ok || got != n.key {
			t.Errorf("BagKey(%q) = %q, %v; want %q", n.canonical, got, ok, n.key)
		}
	}
	if len(canonicalByKey) != len(systemNames) || len(keyByCanonical) != len(systemNames) {
		t.Error("a name stands twice in the table")
	}
	for _, key := range []string{"$.unknown", "mid", "%24.mid", "iothub-ack", ""} {
		if got, ok := SystemName(key); ok {
			t.Errorf("SystemName(%q) = %q, want none", key, got)
		}
	}
}

// What GS and .NET want to see: ids raw, '$' of keys escaped, %24.to before user properties (hub-device §3.5).
func TestAppendC2D_WithBag(t *testing.T) {
	t.Parallel()
	key, _ := BagKey("to")
	got := string(bag.Append(AppendC2D(nil, "d@1"), []bag.Property{{Name: key, Value: "/devices/d@1/messages/devicebound"}, {Name: "k", Value: "v"}}))
	if want := "devices/d@1/messages/devicebound/%24.to=%2Fdevices%2Fd%401%2Fmessages%2Fdevicebound&k=v"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
