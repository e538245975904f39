package topic

import "strings"

// ResponseKind says what a client received.
type ResponseKind byte

// Kinds of topic a server publishes on, with their row in hub-device §3.1.
const (
	ResponseUnknown    ResponseKind = iota
	ResponseC2D                     // row 3
	ResponseTwin                    // row 7
	ResponseDesired                 // row 8
	ResponseMethod                  // row 9: a method request
	ResponseCredential              // row 12
	ResponseDPS                     // dps §4.2
)

// Response is a topic a client received on. Which fields are set depends on Kind.
type Response struct {
	Kind       ResponseKind
	Status     int    // ResponseTwin, ResponseCredential, ResponseDPS
	RID        string // ResponseTwin, ResponseMethod, ResponseCredential, ResponseDPS
	Version    int64  // ResponseDesired, and ResponseTwin after a PATCH; 0: absent
	RetryAfter int    // ResponseDPS, seconds; 0: absent
	Method     string // ResponseMethod
	Bag        string // ResponseC2D, for bag.Parse
}

// ParseResponse reads the topic of a PUBLISH from a server. The error is ErrUnknown or ErrNoRID.
func ParseResponse(t string) (Response, error) {
	r, ok := parseResponse(t)
	if !ok {
		return Response{}, unknown(t)
	}
	if r.RID == "" && r.Kind != ResponseC2D && r.Kind != ResponseDesired {
		return Response{}, ErrNoRID
	}
	return r, nil
}

func parseResponse(t string) (r Response, ok bool) {
	var q string
	switch {
	case strings.HasPrefix(t, devices):
		_, rest, found := cutID(t[len(devices):])
		if !found {
			return Response{}, false
		}
		r.Kind = ResponseC2D
		r.Bag, ok = strings.CutPrefix(rest, devicebound)
		return r, ok
	case strings.HasPrefix(t, twinRes):
		r.Kind = ResponseTwin
		r.Status, q, ok = parseResult(t[len(twinRes):])
	case strings.HasPrefix(t, twinDesired):
		r.Kind = ResponseDesired
		q, ok = strings.CutPrefix(t[len(twinDesired):], "?")
	case strings.HasPrefix(t, methodsPost):
		r.Kind = ResponseMethod
		var rest string
		if r.Method, rest, ok = cutID(t[len(methodsPost):]); ok {
			q, ok = strings.CutPrefix(rest, "?")
		}
	case strings.HasPrefix(t, credentialRes):
		r.Kind = ResponseCredential
		r.Status, q, ok = parseResult(t[len(credentialRes):])
	case strings.HasPrefix(t, dpsRes):
		r.Kind = ResponseDPS
		r.Status, q, ok = parseResult(t[len(dpsRes):])
	}
	if !ok {
		return Response{}, false
	}
	if r.Kind != ResponseDesired {
		r.RID = param(q, ridKey)
	}
	switch r.Kind {
	case ResponseTwin, ResponseDesired:
		if v := param(q, versionKey); v != "" {
			r.Version, ok = parseVersion(v)
		}
	case ResponseDPS:
		if v := param(q, retryAfterKey); v != "" {
			r.RetryAfter, ok = parseSeconds(v)
		}
	}
	if !ok {
		return Response{}, false
	}
	return r, true
}
