package ipfilter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/fault"
)

func TestFilter_Admits(t *testing.T) {
	t.Parallel()
	const classic = `{"ipFilterRules":[
		{"filterName":"one bad machine","action":"Reject","ipMask":"10.1.2.3"},
		{"filterName":"plant","action":"accept","ipMask":"10.1.0.0/16"},
		{"filterName":"offices are for services","action":"Accept","ipMask":"2001:db8::/32","target":"serviceApi"},
		{"filterName":"the rest","action":"Reject","ipMask":"0.0.0.0/0"},
		{"filterName":"the rest of IPv6","action":"Reject","ipMask":"::/0"}]}`
	const newer = `{"networkRuleSets":{"defaultAction":"Deny","applyToBuiltInEventHubEndpoint":true,"ipRules":[
		{"filterName":"plant","action":"Allow","ipMask":"10.1.0.0/16"}]}}`
	for _, c := range []struct {
		condition, filter, from string
		target                  ipfilter.Target
		rule                    string
		ok                      bool
	}{
		{"the first match decides, not the best", classic, "10.1.2.3", ipfilter.DeviceAPI, "one bad machine", false},
		{"the second rule is reached", classic, "10.1.2.4", ipfilter.DeviceAPI, "plant", true},
		{"an address as a socket of both families shows it", classic, "::ffff:10.1.2.4", ipfilter.ServiceAPI, "plant", true},
		{"an address with a zone", classic, "2001:db8::1%eth0", ipfilter.ServiceAPI, "offices are for services", true},
		{"a rule for something else", classic, "2001:db8::1", ipfilter.DeviceAPI, "the rest of IPv6", false},
		{"no rule but the last", classic, "192.0.2.1", ipfilter.DeviceAPI, "the rest", false},
		{"no rule of the classic form: admitted", `{"ipFilterRules":[{"filterName":"x","action":"Reject","ipMask":"10.0.0.0/8"}]}`, "192.0.2.1", ipfilter.DeviceAPI, "", true},
		{"nothing", `{}`, "192.0.2.1", ipfilter.ServiceAPI, "", true},
		{"allowed by the newer form", newer, "10.1.2.3", ipfilter.DeviceAPI, "plant", true},
		{"denied by default", newer, "10.2.2.3", ipfilter.DeviceAPI, "", false},
		{"allowed by default", strings.Replace(newer, "Deny", "Allow", 1), "10.2.2.3", ipfilter.DeviceAPI, "", true},
		{"a mask whose host bits are set", `{"networkRuleSets":{"defaultAction":"deny","ipRules":[{"filterName":"x","action":"Allow","ipMask":"10.1.2.3/16"}]}}`, "10.1.9.9", ipfilter.DeviceAPI, "x", true},
		{"an IPv4 mask written as IPv6", `{"networkRuleSets":{"defaultAction":"deny","ipRules":[{"filterName":"x","action":"Allow","ipMask":"::ffff:10.1.0.0/112"}]}}`, "10.1.9.9", ipfilter.DeviceAPI, "x", true},
	} {
		f, err := ipfilter.Parse([]byte(c.filter))
		if err != nil {
			t.Errorf("%s: %v", c.condition, err)
			continue
		}
		if rule, ok := f.Admits(netip.MustParseAddr(c.from), c.target); rule != c.rule || ok != c.ok {
			t.Errorf("%s: %s is admitted %v by rule %q, want %v by %q", c.condition, c.from, ok, rule, c.ok, c.rule)
		}
	}
	var none *ipfilter.Filter
	for _, f := range []*ipfilter.Filter{none, {}} {
		if _, ok := f.Admits(netip.MustParseAddr("192.0.2.1"), ipfilter.DeviceAPI); !ok {
			t.Error("no filter refuses somebody")
		}
	}
}

func TestParse_Refusals(t *testing.T) {
	t.Parallel()
	rule := func(name, action, mask, target string) string {
		return fmt.Sprintf(`{"filterName":%q,"action":%q,"ipMask":%q,"target":%q}`, name, action, mask, target)
	}
	var eleven []string
	for i := range 11 {
		eleven = append(eleven, rule(fmt.Sprint(i), "Accept", "10.0.0.0/8", ""))
	}
	for condition, c := range map[string]struct {
		text string
		want fault.Kind
	}{
		"no JSON":                 {`{"ipFilterRules":`, fault.Malformed},
		"rules that are no list":  {`{"ipFilterRules":{}}`, fault.Malformed},
		"no name":                 {`{"ipFilterRules":[` + rule("", "Accept", "10.0.0.0/8", "") + `]}`, fault.Invalid},
		"a long name":             {`{"ipFilterRules":[` + rule(strings.Repeat("x", 129), "Accept", "10.0.0.0/8", "") + `]}`, fault.Invalid},
		"a name twice":            {`{"ipFilterRules":[` + rule("a", "Accept", "10.0.0.0/8", "") + `,` + rule("A", "Accept", "11.0.0.0/8", "") + `]}`, fault.Invalid},
		"an action of the other":  {`{"ipFilterRules":[` + rule("a", "Allow", "10.0.0.0/8", "") + `]}`, fault.Invalid},
		"a mask that is none":     {`{"ipFilterRules":[` + rule("a", "Accept", "10.0.0.0/33", "") + `]}`, fault.Invalid},
		"a name as a mask":        {`{"ipFilterRules":[` + rule("a", "Accept", "plant", "") + `]}`, fault.Invalid},
		"an unknown target":       {`{"ipFilterRules":[` + rule("a", "Accept", "10.0.0.0/8", "console") + `]}`, fault.Invalid},
		"eleven rules":            {`{"ipFilterRules":[` + strings.Join(eleven, ",") + `]}`, fault.Invalid},
		"both forms":              {`{"ipFilterRules":[` + eleven[0] + `],"networkRuleSets":{"defaultAction":"Deny"}}`, fault.Invalid},
		"no default action":       {`{"networkRuleSets":{"ipRules":[]}}`, fault.Invalid},
		"a reject in a rule set":  {`{"networkRuleSets":{"defaultAction":"Allow","ipRules":[` + rule("a", "Reject", "10.0.0.0/8", "") + `]}}`, fault.Invalid},
		"an accept in a rule set": {`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[` + rule("a", "Accept", "10.0.0.0/8", "") + `]}}`, fault.Invalid},
	} {
		if _, err := ipfilter.Parse([]byte(c.text)); !fault.Is(err, c.want) {
			t.Errorf("%s: got %v, want kind %v", condition, err, c.want)
		}
	}
}

// Whatever is accepted decides for every address without a panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"ipFilterRules":[{"filterName":"a","action":"Reject","ipMask":"10.0.0.0/8"}]}`))
	f.Add([]byte(`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[{"filterName":"a","action":"Allow","ipMask":"::/0"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		filter, err := ipfilter.Parse(text)
		if err != nil {
			return
		}
		for _, a := range []string{"10.0.0.1", "::1", "::ffff:1.2.3.4"} {
			filter.Admits(netip.MustParseAddr(a), ipfilter.DeviceAPI)
		}
	})
}
