package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"

	"github.com/vauban-iot/vauban/fault"
)

// Sizes of what devices send.
const (
	maxRequestText = 8 << 10 // base64 of a certificate request (hub-device §3.10)
	maxRequestID   = 128     // characters; every SDK sends 36 at most
)

// request is what a device asks for.
type request struct {
	csr     []byte // DER, unverified
	replace string // the request that it takes the place of: empty, anyRequest or a request id
}

// anyRequest stands for whatever is under way.
const anyRequest = "*"

// replaceable is how a request is named (CSR scenario 010). One of another name can be replaced by anyRequest only.
var replaceable = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{2,34}[0-9A-Za-z]$`)

// parse reads the body of a request of the identity called id. Failures are fault.Malformed when it is no JSON, and Invalid.
func parse(id string, body []byte) (request, error) {
	var r request
	switch body = bytes.Trim(body, " \t\r\n"); {
	case len(body) == 0:
		return r, fault.New(fault.Invalid, "the body is empty; send a JSON object with id and csr")
	case !json.Valid(body):
		return r, fault.New(fault.Malformed, "the body is not JSON")
	case body[0] != '{':
		return r, fault.New(fault.Invalid, "the body is not a JSON object")
	}
	// A map and no struct, whose members would match in any case.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return r, fault.Wrap(fault.Malformed, err, "the body is not JSON")
	}
	for name := range members {
		switch name {
		case "id", "csr", "replace":
		default:
			return r, fault.New(fault.Invalid, "the body has a member other than id, csr and replace")
		}
	}
	switch got, err := text("id", members["id"]); {
	case err != nil:
		return r, err
	case got != id:
		return r, fault.New(fault.Invalid, "id is not that of the connection")
	}
	csr, err := text("csr", members["csr"])
	if err != nil {
		return r, err
	}
	if len(csr) > maxRequestText {
		return r, fault.New(fault.Invalid, "csr has %d characters, %d are allowed", len(csr), maxRequestText)
	}
	if r.csr, err = base64.StdEncoding.Strict().DecodeString(csr); err != nil || len(r.csr) == 0 {
		return request{}, fault.New(fault.Invalid, "csr is not base64 of DER without armour")
	}
	if raw := members["replace"]; raw != nil && string(raw) != "null" { // .NET may write what is not there as null
		if r.replace, err = text("replace", raw); err != nil {
			return request{}, err
		}
		if r.replace != anyRequest && !replaceable.MatchString(r.replace) {
			return request{}, fault.New(fault.Invalid, "replace is neither * nor a request id of 4 to 36 letters, digits and inner hyphens")
		}
	}
	return r, nil
}

// text reads a member that must be there, and not empty.
func text(name string, raw json.RawMessage) (string, error) {
	var s *string
	if raw != nil {
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", fault.New(fault.Invalid, "%s is not a string", name)
		}
	}
	if s == nil || *s == "" {
		return "", fault.New(fault.Invalid, "%s is missing", name)
	}
	return *s, nil
}
