package topic

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/wire/bag"
)

// MaxUsername bounds a user name in bytes: four ids of 128, a model id and an auth chain fit many times over.
const MaxUsername = 8192

// ErrUsername is returned for a user name that names no device of a hub and no registration.
var ErrUsername = errors.New("topic: malformed user name")

// Username is an MQTT user name: who connects, and what it says about itself. DPS tells which
// of the two forms it has.
type Username struct {
	Host           string // hub name as sent, even when the connection goes to a gateway
	Device, Module string
	APIVersion     string // empty when absent
	ClientType     string // DeviceClientType, or ClientVersion with DPS
	ModelID        string
	AuthChain      string // ids separated by ';', target first

	DPS            bool
	IDScope        string
	RegistrationID string
}

const (
	apiVersionParam = "api-version="
	registrations   = "registrations"
)

// ParseUsername reads every form of hub-device §2.2 and the one of dps §4.1. Ids, host and
// api-version stay as sent; the other parameters are percent-decoded, or kept as sent when
// they cannot be. Unknown parameters are skipped. The error is ErrUsername.
func ParseUsername(s string) (Username, error) {
	if len(s) > MaxUsername {
		return Username{}, fmt.Errorf("%w: %d bytes, limit %d", ErrUsername, len(s), MaxUsername)
	}
	if !utf8.ValidString(s) {
		return Username{}, fmt.Errorf("%w: not UTF-8", ErrUsername)
	}
	host, rest, ok := strings.Cut(s, "/")
	if !ok || host == "" {
		return Username{}, fmt.Errorf("%w: no host", ErrUsername)
	}
	if id, params, ok := cutRegistration(rest); ok {
		u := Username{DPS: true, IDScope: host, RegistrationID: id}
		u.setParams(params)
		return u, nil
	}
	ids, params := cutParams(rest)
	u := Username{Host: host}
	u.Device, u.Module, ok = strings.Cut(ids, "/")
	if u.Device == "" || ok && u.Module == "" || strings.Contains(u.Module, "/") {
		return Username{}, fmt.Errorf("%w: want {device} or {device}/{module} after the host", ErrUsername)
	}
	u.setParams(params)
	return u, nil
}

// cutRegistration recognises registrations/{id}/api-version=... . A device may be called
// "registrations" too; its parameters come with a '?', those of DPS without.
func cutRegistration(s string) (id, params string, ok bool) {
	s, ok = strings.CutPrefix(s, registrations+"/")
	if !ok {
		return "", "", false
	}
	id, params, _ = strings.Cut(s, "/")
	if id == "" || id[0] == '?' || strings.HasPrefix(id, apiVersionParam) || !strings.HasPrefix(params, apiVersionParam) {
		return "", "", false
	}
	return id, params, true
}

// cutParams splits {ids}/?{params} in its several spellings. '?' may be part of an id, so it
// counts only at the start of the last segment, or together with api-version=
// (hub-device §2.2). An unescaped '/' within a parameter is survived.
func cutParams(s string) (ids, params string) {
	last := strings.LastIndexByte(s, '/')
	if last >= 0 && startsParams(s[last+1:]) {
		return s[:last], s[last+1:]
	}
	for i := range len(s) {
		if s[i] == '/' && startsParams(s[i+1:]) {
			return s[:i], s[i+1:]
		}
	}
	if last >= 0 && (last == len(s)-1 || s[last+1] == '?') {
		return s[:last], s[last+1:]
	}
	if i := strings.Index(s[last+1:], "?"+apiVersionParam); i >= 0 {
		return s[:last+1+i], s[last+1+i:]
	}
	return s, ""
}

func startsParams(s string) bool {
	return strings.HasPrefix(strings.TrimPrefix(s, "?"), apiVersionParam)
}

// setParams fills what the parameters say; the last of several equal names wins.
func (u *Username) setParams(s string) {
	for pair := range strings.SplitSeq(strings.TrimPrefix(s, "?"), "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case name == "api-version":
			u.APIVersion = value
		case name == "DeviceClientType" && !u.DPS, name == "ClientVersion" && u.DPS:
			u.ClientType = decodeOrKeep(value)
		case name == "model-id" && !u.DPS:
			u.ModelID = decodeOrKeep(value)
		case name == "auth-chain" && !u.DPS:
			u.AuthChain = decodeOrKeep(value)
		}
	}
}

func decodeOrKeep(s string) string {
	if d, err := bag.Unescape(s); err == nil {
		return d
	}
	return s
}

// String is the canonical form of hub-device §2.2, or of dps §4.1 when u.DPS is set.
// ParseUsername reads it back.
func (u Username) String() string {
	var b []byte
	if u.DPS {
		b = append(b, u.IDScope...)
		b = append(b, "/"+registrations+"/"...)
		b = append(b, u.RegistrationID...)
		b = append(b, "/"+apiVersionParam...)
		b = append(b, u.APIVersion...)
		return string(appendParam(b, "ClientVersion", u.ClientType))
	}
	b = append(b, u.Host...)
	b = append(b, '/')
	b = append(b, u.Device...)
	if u.Module != "" {
		b = append(b, '/')
		b = append(b, u.Module...)
	}
	b = append(b, "/?"+apiVersionParam...)
	b = append(b, u.APIVersion...)
	b = appendParam(b, "DeviceClientType", u.ClientType)
	b = appendParam(b, "model-id", u.ModelID)
	return string(appendParam(b, "auth-chain", u.AuthChain))
}

func appendParam(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, '&')
	dst = append(dst, name...)
	dst = append(dst, '=')
	return bag.Escape(dst, value)
}
