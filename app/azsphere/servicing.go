package azsphere

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/wire/capability"
)

// deviceVariable names the devices at hand: addresses with commas between.
const deviceVariable = "AZSPHERE_DEVICE"

var deviceID = regexp.MustCompile(`^[0-9a-fA-F]{128}$`)

// attached is a device at hand, by its servicing API (sphere §8).
type attached struct {
	address    string
	http       *http.Client
	base       string
	capability []byte // goes with each request
}

// attach makes a client of the servicing API at unix:PATH, /PATH or a loopback address.
func attach(address string) (*attached, error) {
	a := &attached{address: address, base: "http://device"}
	t := &http.Transport{DisableKeepAlives: true}
	var d net.Dialer
	path, socket := strings.CutPrefix(address, "unix:")
	if socket || strings.ContainsAny(address, `/\`) {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
	} else {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, misuse("--device is %q (want a device id of 128 hex digits, unix:PATH or 127.0.0.1:PORT)", address)
		}
		// The device signs its own certificate, so nothing vouches for it but that it is this machine's.
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return nil, misuse("%s is not an address of this machine; devices elsewhere are serviced through a tunnel to one, such as ssh -L", address)
		}
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
		a.base = "https://" + address
	}
	a.http = &http.Client{Transport: t, Timeout: 30 * time.Second}
	return a, nil
}

// servicingWords are what to say of the errors of the servicing API.
var servicingWords = map[int]string{
	agent.ErrorBadRequest:      "the device does not take this",
	agent.ErrorNotFound:        "the device's servicing API does not have this",
	agent.ErrorMethod:          "the device's servicing API does not have this",
	agent.ErrorLocked:          "the device is DeviceComplete, which locks this; get a capability with: %[1]s device capability download --type fieldServicing --destination FILE, and use it with: %[1]s device capability select --capability-file FILE",
	agent.ErrorCapability:      "the device does not take the selected capability: it is for another device, expired, or signed by another service; end its use with: %[1]s device capability select --none",
	agent.ErrorStateNotForward: "manufacturing states go one way",
	agent.ErrorInternal:        "the device could not do this; see its log",
}

// service asks a device at hand.
func (r *run) service(a *attached, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(r.Context(), method, a.base+path, reader)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if len(a.capability) > 0 {
		req.Header.Set(capability.Header, capability.EncodeHeader(a.capability))
	}
	res, err := a.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op
		}
		return fmt.Errorf("no device answers at %s: %w; is its agent running?", a.address, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("the answer of the device at %s broke off: %w", a.address, err)
	}
	if res.StatusCode >= 300 {
		var e struct{ Error int }
		_ = json.Unmarshal(b, &e) // 0 is no error's number
		if text, ok := servicingWords[e.Error]; ok {
			if strings.Contains(text, "%") {
				text = fmt.Sprintf(text, r.t.name)
			}
			return errors.New(text)
		}
		return fmt.Errorf("the device at %s answered %s (error %d)", a.address, res.Status, e.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the answer of the device at %s cannot be read: %w", a.address, err)
	}
	return nil
}

// target is the device that a command is about.
type target struct {
	agent.Identity
	at *attached // nil: it is not at hand
}

// addresses are where devices at hand are serviced.
func addresses() []string {
	return strings.FieldsFunc(os.Getenv(deviceVariable), func(c rune) bool { return c == ',' || c == ' ' })
}

// open asks the device at an address who it is, and has the capability that is selected for it go with later requests.
func (r *run) open(address string) (target, error) {
	a, err := attach(address)
	if err != nil {
		return target{}, err
	}
	t := target{at: a}
	if err := r.service(a, http.MethodGet, "/device/identity", nil, &t.Identity); err != nil {
		return target{}, err
	}
	if !deviceID.MatchString(t.ID) {
		return target{}, fmt.Errorf("what answers at %s is no device", address)
	}
	t.ID = strings.ToLower(t.ID)
	acc, err := loadAccount()
	if err != nil {
		return target{}, err
	}
	a.capability = acc.Capabilities[t.ID]
	return t, nil
}

// target finds the device that --device, or the environment, names.
func (r *run) target() (target, error) {
	name, known := r.device, addresses()
	switch {
	case name == "" && len(known) == 0:
		return target{}, misuse("which device? give its id or its address with --device, or its address in %s", deviceVariable)
	case name == "" && len(known) > 1:
		return target{}, misuse("%s names %d devices; say which one with --device", deviceVariable, len(known))
	case name == "":
		name = known[0]
	}
	if deviceID.MatchString(name) {
		return target{Identity: agent.Identity{ID: strings.ToLower(name)}}, nil
	}
	return r.open(name)
}

// atHand is target for commands that need the device itself.
func (r *run) atHand() (target, error) {
	t, err := r.target()
	if err != nil || t.at != nil {
		return t, err
	}
	for _, address := range addresses() {
		if found, err := r.open(address); err == nil && found.ID == t.ID {
			return found, nil
		}
	}
	return target{}, fmt.Errorf("device %s is not at hand; give the address of its servicing API with --device, or in %s", short(t.ID), deviceVariable)
}

// short is a device id as sentences have it.
func short(id string) string {
	if len(id) > 16 {
		return id[:16] + "..."
	}
	return id
}

// described is what a device says of itself.
type described struct {
	DeviceID           string   `json:"deviceId"`
	Address            string   `json:"address"`
	OSVersion          string   `json:"osVersion"`
	ManufacturingState string   `json:"manufacturingState"`
	SecurityState      string   `json:"securityState"`
	HardwareRoot       bool     `json:"hardwareRoot"`
	Capabilities       []string `json:"capabilities"`
	Authenticated      bool     `json:"deviceAuthenticationIsReady"`
	UptimeSeconds      int64    `json:"uptimeSeconds"`
}

func (r *run) describe(t target) (described, error) {
	d := described{DeviceID: t.ID, Address: t.at.address, HardwareRoot: t.HardwareRoot, Capabilities: []string{}}
	var caps struct {
		IDs []capability.ID `json:"device_capabilities"`
	}
	for path, into := range map[string]any{
		"/osversion": &struct {
			V *string `json:"osversion"`
		}{&d.OSVersion},
		"/device/manufacturing_state": &struct {
			V *string `json:"manufacturingState"`
		}{&d.ManufacturingState},
		"/device/security_state": &struct {
			V *string `json:"securityState"`
		}{&d.SecurityState},
		"/net/status": &struct {
			V *bool `json:"deviceAuthenticationIsReady"`
		}{&d.Authenticated},
		"/status": &struct {
			V *int64 `json:"uptime"`
		}{&d.UptimeSeconds},
		"/device/capabilities": &caps,
	} {
		if err := r.service(t.at, http.MethodGet, path, nil, into); err != nil {
			return d, err
		}
	}
	for _, id := range caps.IDs {
		d.Capabilities = append(d.Capabilities, id.String())
	}
	return d, nil
}
