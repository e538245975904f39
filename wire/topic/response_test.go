package topic

import (
	"errors"
	"testing"
)

func TestParseResponse_ReadsWhatTheServerAppends(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		topic []byte
		text  string
		want  Response
	}{
		{AppendC2D(nil, "d"), "devices/d/messages/devicebound/", Response{Kind: ResponseC2D}},
		{append(AppendC2D(nil, "d"), "%24.to=x"...), "devices/d/messages/devicebound/%24.to=x", Response{Kind: ResponseC2D, Bag: "%24.to=x"}},
		{AppendTwinResponse(nil, 200, "1", 0), "$iothub/twin/res/200/?$rid=1", Response{Kind: ResponseTwin, Status: 200, RID: "1"}},
		{AppendTwinResponse(nil, 204, "a-b", 5), "$iothub/twin/res/204/?$rid=a-b&$version=5", Response{Kind: ResponseTwin, Status: 204, RID: "a-b", Version: 5}},
		{AppendDesired(nil, 3), "$iothub/twin/PATCH/properties/desired/?$version=3", Response{Kind: ResponseDesired, Version: 3}},
		{AppendMethod(nil, "c*reboot", "1f"), "$iothub/methods/POST/c*reboot/?$rid=1f", Response{Kind: ResponseMethod, Method: "c*reboot", RID: "1f"}},
		{AppendCredentialResponse(nil, 202, "a-1"), "$iothub/credentials/res/202/?$rid=a-1", Response{Kind: ResponseCredential, Status: 202, RID: "a-1"}},
		{AppendDPSResponse(nil, 200, "1", 0), "$dps/registrations/res/200/?$rid=1", Response{Kind: ResponseDPS, Status: 200, RID: "1"}},
		{AppendDPSResponse(nil, 202, "1", 3), "$dps/registrations/res/202/?$rid=1&retry-after=3", Response{Kind: ResponseDPS, Status: 202, RID: "1", RetryAfter: 3}},
	} {
		if string(tt.topic) != tt.text {
			t.Errorf("appended %s, want %s", tt.topic, tt.text)
		}
		if got, err := ParseResponse(string(tt.topic)); err != nil || got != tt.want {
			t.Errorf("ParseResponse(%s) = %+v, %v; want %+v", tt.topic, got, err, tt.want)
		}
	}
}

func TestParseResponse_Refuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]error{
		"":                                                          ErrUnknown,
		"devices//messages/devicebound/":                            ErrUnknown,
		"devices/d/messages/events/":                                ErrUnknown,
		"devices/d/modules/m/inputs/in/":                            ErrUnknown,
		"$iothub/twin/res//?$rid=1":                                 ErrUnknown,
		"$iothub/twin/res/ok/?$rid=1":                               ErrUnknown,
		"$iothub/twin/res/204/?$rid=1&$version=v":                   ErrUnknown,
		"$iothub/twin/PATCH/properties/desired/$version=1":          ErrUnknown,
		"$iothub/twin/PATCH/properties/desired/?$version=-1":        ErrUnknown,
		"$iothub/methods/POST//?$rid=1":                             ErrUnknown,
		"$iothub/methods/POST/name":                                 ErrUnknown,
		"$iothub/methods/POST/name/x?$rid=1":                        ErrUnknown,
		"$dps/registrations/res/202/?$rid=1&retry-after=soon":       ErrUnknown,
		"$dps/registrations/res/202/?$rid=1&retry-after=9999999999": ErrUnknown,
		"$iothub/credentials/res/":                                  ErrUnknown,
		"$iothub/credentials/res/200/":                              ErrNoRID,
		"$iothub/twin/res/200/":                                     ErrNoRID,
		"$iothub/methods/POST/name/?":                               ErrNoRID,
		"$dps/registrations/res/200/?rid=1":                         ErrNoRID,
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			if got, err := ParseResponse(in); !errors.Is(err, want) || got != (Response{}) {
				t.Errorf("ParseResponse(%q) = %+v, %v; want the zero Response, %v", in, got, err, want)
			}
		})
	}
}

func appendResponse(r Response) []byte {
	switch r.Kind {
	case ResponseC2D:
		return append(AppendC2D(nil, "d"), r.Bag...)
	case ResponseTwin:
		return AppendTwinResponse(nil, r.Status, r.RID, r.Version)
	case ResponseDesired:
		return AppendDesired(nil, r.Version)
	case ResponseMethod:
		return AppendMethod(nil, r.Method, r.RID)
	case ResponseCredential:
		return AppendCredentialResponse(nil, r.Status, r.RID)
	default:
		return AppendDPSResponse(nil, r.Status, r.RID, r.RetryAfter)
	}
}

func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"devices/d/messages/devicebound/%24.to=x", "$iothub/twin/res/204/?$rid=1&$version=5",
		"$iothub/twin/PATCH/properties/desired/?$version=3", "$iothub/methods/POST/m/?$rid=1", "$iothub/credentials/res/200/?$rid=1",
		"$dps/registrations/res/202/?retry-after=3&$rid=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseResponse(s)
		if err != nil {
			if r != (Response{}) {
				t.Fatalf("ParseResponse(%q) = %+v with error %v", s, r, err)
			}
			return
		}
		text := string(appendResponse(r))
		if again, err := ParseResponse(text); err != nil || again != r {
			t.Fatalf("%q appended as %q is %+v, %v; was %+v", s, text, again, err, r)
		}
	})
}
