// Package topic holds the grammar of IoT Hub and DPS on MQTT: topics in both directions,
// subscription filters, user names, and the short names of system properties
// (hub-device §2.2, §3.1, §3.3, §3.7, §3.8, §3.10; dps §4.1, §4.2).
//
// Literals are case-sensitive. Device, module, request and operation ids are taken as they
// stand: the hub never percent-decodes them. Bags are passed on for package bag to read.
// Parsed strings may alias the input.
package topic

import (
	"errors"
	"strconv"
	"strings"
)

var (
	// ErrUnknown is returned for a topic this package has no meaning for.
	ErrUnknown = errors.New("topic: unknown topic")
	// ErrNoRID is returned for a request without $rid, to which no answer could be routed.
	ErrNoRID = errors.New("topic: request without $rid")
)

const (
	devices        = "devices/"
	modules        = "modules/"
	events         = "messages/events"
	devicebound    = "messages/devicebound/"
	twinGet        = "$iothub/twin/GET"
	twinPatch      = "$iothub/twin/PATCH/properties/reported"
	twinRes        = "$iothub/twin/res/"
	twinDesired    = "$iothub/twin/PATCH/properties/desired/"
	methodsPost    = "$iothub/methods/POST/"
	methodsRes     = "$iothub/methods/res/"
	credentialPost = "$iothub/credentials/POST/issueCertificate"
	credentialRes  = "$iothub/credentials/res/"
	dpsRegister    = "$dps/registrations/PUT/iotdps-register"
	dpsStatus      = "$dps/registrations/GET/iotdps-get-operationstatus"
	dpsRes         = "$dps/registrations/res/"
	ridQuery       = "?$rid="
	versionKey     = "$version"
	ridKey         = "$rid"
	operationIDKey = "operationId"
	retryAfterKey  = "retry-after"
)

// cutID takes the first segment off s. It must not be empty; a last segment leaves rest empty.
func cutID(s string) (id, rest string, ok bool) {
	id, rest, _ = strings.Cut(s, "/")
	return id, rest, id != ""
}

// query returns the parameters after a topic's literal part: "", "/", "/?" and "/?k=v&...".
func query(rest string) (string, bool) {
	if rest == "" || rest == "/" {
		return "", true
	}
	return strings.CutPrefix(rest, "/?")
}

// param finds a parameter by its raw name; the first of several counts.
func param(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v
		}
	}
	return ""
}

// parseStatus reads -?[0-9]{1,10} within 32 bits.
func parseStatus(s string) (int, bool) {
	if !isDecimal(strings.TrimPrefix(s, "-"), 10) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil
}

// parseSeconds reads a duration of at most 10 digits within 32 bits.
func parseSeconds(s string) (int, bool) {
	if !isDecimal(s, 10) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil
}

// parseVersion reads a version of at most 19 digits.
func parseVersion(s string) (int64, bool) {
	if !isDecimal(s, 19) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func isDecimal(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
