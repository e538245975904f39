package topic

import (
	"strings"
	"testing"
)

func TestParseFilter(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Filter{
		"devices/d/messages/devicebound/#":               {Kind: FilterC2D, Device: "d"},
		"devices/+/messages/devicebound/#":               {Kind: FilterC2D, Device: "+"},
		"devices/" + idChars + "/messages/devicebound/#": {Kind: FilterC2D, Device: idChars},
		"devices/a#b/messages/devicebound/#":             {Kind: FilterC2D, Device: "a#b"},
		"devices/d/modules/m/inputs/#":                   {Kind: FilterInputs, Device: "d", Module: "m"},
		"devices/d/modules/m/#":                          {Kind: FilterInputs, Device: "d", Module: "m"},
		"$iothub/twin/res/#":                             {Kind: FilterTwinResponse},
		"$iothub/twin/PATCH/properties/desired/#":        {Kind: FilterDesired},
		"$iothub/methods/POST/#":                         {Kind: FilterMethods},
		"$dps/registrations/res/#":                       {Kind: FilterDPSResponse},
		"":                                               {},
		"#":                                              {},
		"+/#":                                            {},
		"devices/#":                                      {},
		"devices//x":                                     {},
		"$iothub/credentials/res/#":                      {Kind: FilterCredential},
		"$iothub/credentials/#":                          {},
		"$iothub/twin/#":                                 {},
		"$iothub/Methods/POST/#":                         {},
		"devices/x":                                      {Device: "x"},
		"devices/x/#":                                    {Device: "x"},
		"devices/+/#":                                    {Device: "+"},
		"devices/x/messages/events/#":                    {Device: "x"},
		"devices/x/messages/devicebound":                 {Device: "x"},
		"devices/x/messages/devicebound/+":               {Device: "x"},
		"devices/x/modules/#":                            {Device: "x"},
		"devices/x/modules//inputs/#":                    {Device: "x"},
		"devices/x/modules/y":                            {Device: "x", Module: "y"},
		"devices/x/modules/y/inputs/in1/#":               {Device: "x", Module: "y"},
		"devices/x/modules/y/messages/devicebound/#":     {Device: "x", Module: "y"},
		"devices/+/modules/y/inputs/#":                   {Device: "+", Module: "y"},
		"devices/x/modules/+/#":                          {Device: "x", Module: "+"},
	} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			if got := ParseFilter(in); got != want {
				t.Errorf("ParseFilter(%q) = %+v, want %+v", in, got, want)
			}
		})
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"devices/+/messages/devicebound/#", "devices/d/modules/m/inputs/#", "devices/d/modules/m/#", "$iothub/twin/res/#", "$iothub/credentials/res/#", "devices/x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := ParseFilter(s)
		text := s
		switch got.Kind {
		case FilterUnknown:
			if got.Device != "" && !strings.HasPrefix(s, "devices/"+got.Device) {
				t.Fatalf("ParseFilter(%q) made up device %q", s, got.Device)
			}
		case FilterC2D:
			text = string(AppendC2D(nil, got.Device)) + "#"
		case FilterInputs:
			text = "devices/" + got.Device + "/modules/" + got.Module + "/" + strings.TrimPrefix(s, "devices/"+got.Device+"/modules/"+got.Module+"/")
		case FilterTwinResponse:
			text = twinRes + "#"
		case FilterDesired:
			text = twinDesired + "#"
		case FilterMethods:
			text = methodsPost + "#"
		case FilterCredential:
			text = credentialRes + "#"
		case FilterDPSResponse:
			text = dpsRes + "#"
		}
		if text != s {
			t.Fatalf("ParseFilter(%q) = %+v, which is %q", s, got, text)
		}
	})
}
