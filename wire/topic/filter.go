package topic

import "strings"

// FilterKind says what a device subscribes to.
type FilterKind byte

// Kinds of filter, with their row in hub-device §3.1.
const (
	FilterUnknown      FilterKind = iota
	FilterC2D                     // row 3
	FilterInputs                  // row 4
	FilterTwinResponse            // row 7
	FilterDesired                 // row 8
	FilterMethods                 // row 9
	FilterCredential              // row 12
	FilterDPSResponse             // dps §4.2
)

// Filter is a subscription filter. Device is "+" for devices/+/..., which stands for the
// subscriber's own id.
type Filter struct {
	Kind           FilterKind
	Device, Module string
}

// ParseFilter reads a subscription filter. One that is not in the table is FilterUnknown; when
// it lies under devices/X, Device (and Module) are kept, so that the caller can see
// whether it names somebody else. devices/# names nobody.
func ParseFilter(f string) Filter {
	switch f {
	case twinRes + "#":
		return Filter{Kind: FilterTwinResponse}
	case twinDesired + "#":
		return Filter{Kind: FilterDesired}
	case methodsPost + "#":
		return Filter{Kind: FilterMethods}
	case credentialRes + "#":
		return Filter{Kind: FilterCredential}
	case dpsRes + "#":
		return Filter{Kind: FilterDPSResponse}
	}
	rest, ok := strings.CutPrefix(f, devices)
	if !ok || rest == "#" {
		return Filter{}
	}
	var out Filter
	if out.Device, rest, ok = cutID(rest); !ok {
		return Filter{}
	}
	if rest == devicebound+"#" {
		out.Kind = FilterC2D
		return out
	}
	if rest, ok = strings.CutPrefix(rest, modules); !ok || rest == "#" {
		return out
	}
	if out.Module, rest, ok = cutID(rest); !ok {
		return Filter{Device: out.Device}
	}
	// Both spellings are in use: inputs/# by Node and Python, # by C and .NET. Neither SDK
	// puts a wildcard in place of an id here.
	if (rest == "#" || rest == "inputs/#") && out.Device != "+" && out.Module != "+" {
		out.Kind = FilterInputs
	}
	return out
}
