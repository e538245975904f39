package topic

import "strconv"

// AppendC2D appends devices/{device}/messages/devicebound/; the bag follows.
func AppendC2D(dst []byte, device string) []byte {
	dst = append(dst, devices...)
	dst = append(dst, device...)
	dst = append(dst, '/')
	return append(dst, devicebound...)
}

// AppendTwinResponse appends the answer to a twin request. $rid comes first with a raw '$':
// the C SDKs look for exactly that (hub-device §3.7). A version of 0 or less is left out.
func AppendTwinResponse(dst []byte, status int, rid string, version int64) []byte {
	dst = appendResult(dst, twinRes, status, rid)
	if version > 0 {
		dst = append(dst, "&$version="...)
		dst = strconv.AppendInt(dst, version, 10)
	}
	return dst
}

// AppendDesired appends the topic of a desired properties update.
func AppendDesired(dst []byte, version int64) []byte {
	dst = append(dst, twinDesired...)
	dst = append(dst, "?$version="...)
	return strconv.AppendInt(dst, version, 10)
}

// AppendMethod appends the topic of a method request. rid ends the topic, since devices echo
// all that follows $rid= (hub-device §3.8).
func AppendMethod(dst []byte, name, rid string) []byte {
	dst = append(dst, methodsPost...)
	dst = append(dst, name...)
	return appendRID(dst, rid)
}

// AppendCredentialResponse appends the answer to a request for a certificate.
func AppendCredentialResponse(dst []byte, status int, rid string) []byte {
	return appendResult(dst, credentialRes, status, rid)
}

// AppendDPSResponse appends the answer of the provisioning service. retryAfter is in
// seconds; 0 or less leaves it out.
func AppendDPSResponse(dst []byte, status int, rid string, retryAfter int) []byte {
	dst = appendResult(dst, dpsRes, status, rid)
	if retryAfter > 0 {
		dst = append(dst, "&retry-after="...)
		dst = strconv.AppendInt(dst, int64(retryAfter), 10)
	}
	return dst
}

// AppendTelemetry appends the telemetry topic of a device, or of its module unless that is
// empty, up to the '/' that the bag follows.
func AppendTelemetry(dst []byte, device, module string) []byte {
	dst = append(dst, devices...)
	dst = append(dst, device...)
	dst = append(dst, '/')
	if module != "" {
		dst = append(dst, modules...)
		dst = append(dst, module...)
		dst = append(dst, '/')
	}
	dst = append(dst, events...)
	return append(dst, '/')
}

// AppendTwinGet appends the topic that asks for the twin.
func AppendTwinGet(dst []byte, rid string) []byte {
	return appendRID(append(dst, twinGet...), rid)
}

// AppendTwinPatch appends the topic of a reported properties patch.
func AppendTwinPatch(dst []byte, rid string) []byte {
	return appendRID(append(dst, twinPatch...), rid)
}

// AppendMethodResult appends the topic that answers a method request.
func AppendMethodResult(dst []byte, status int, rid string) []byte {
	return appendResult(dst, methodsRes, status, rid)
}

// AppendCredentialRequest appends the topic that asks for a certificate.
func AppendCredentialRequest(dst []byte, rid string) []byte {
	return appendRID(append(dst, credentialPost...), rid)
}

// AppendDPSRegister appends the topic of a registration.
func AppendDPSRegister(dst []byte, rid string) []byte {
	return appendRID(append(dst, dpsRegister...), rid)
}

// AppendDPSStatus appends the topic that asks how a registration is getting on.
func AppendDPSStatus(dst []byte, rid, operationID string) []byte {
	dst = appendRID(append(dst, dpsStatus...), rid)
	dst = append(dst, "&operationId="...)
	return append(dst, operationID...)
}

func appendResult(dst []byte, prefix string, status int, rid string) []byte {
	dst = append(dst, prefix...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	return appendRID(dst, rid)
}

func appendRID(dst []byte, rid string) []byte {
	dst = append(dst, '/')
	dst = append(dst, ridQuery...)
	return append(dst, rid...)
}
