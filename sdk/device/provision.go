package device

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Registration is how a device provisions itself (dps §2 to §4). One of Key, GroupKey and CertificateFile is required.
type Registration struct {
	Host    string // of the provisioning service; empty: global.azure-devices-provisioning.net
	IDScope string // required
	ID      string // the registration id. Required; with a certificate, its common name

	Key      string // base64: the enrollment's key
	GroupKey string // base64: the enrollment group's key, from which the device's own is derived
	// CertificateFile and KeyFile are PEM files.
	CertificateFile, KeyFile string

	Payload json.RawMessage // for whoever allocates; an object, may be empty

	// Wait is told how long the service wants the device to wait before it asks again, and gives how long it waits: a device in another time
	// than this machine's may know better. nil: as long as it is told.
	Wait func(time.Duration) time.Duration

	TLS       *tls.Config // as in Config
	Address   string
	WebSocket bool
	Proxy     *url.URL
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

// Assignment is where a device belongs.
type Assignment struct {
	Hub      string
	DeviceID string
	key      string // base64; empty: proves itself by certificate
}

// ConnectionString is that of the device. It holds the device's key.
func (a Assignment) ConnectionString() string {
	s := "HostName=" + a.Hub + ";DeviceId=" + a.DeviceID
	if a.key == "" {
		return s + ";x509=true"
	}
	return s + ";SharedAccessKey=" + a.key
}

// ProvisionError is a refusal of the provisioning service.
type ProvisionError struct {
	Status  int // as in HTTP
	Code    int // of the service's own, such as 401002; 0: none
	Message string
}

func (e *ProvisionError) Error() string {
	return fmt.Sprintf("the provisioning service answered %d: %s", e.Status, e.Message)
}

const (
	globalHost      = "global.azure-devices-provisioning.net"
	provisioningAPI = "2019-03-31"
	provisionToken  = time.Hour
	maxRetryAfter   = 5 * time.Minute
)

// key is the device's own: given, or derived from its group's (dps §2.2).
func (r *Registration) key() ([]byte, error) {
	text := r.Key
	if r.GroupKey != "" {
		text = r.GroupKey
	}
	if text == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return nil, errors.New("the provisioning key is not base64")
	}
	if r.GroupKey != "" {
		key = sas.DeriveKey(key, r.ID)
	}
	return key, nil
}

func (r *Registration) check() error {
	given := 0
	for _, s := range []string{r.Key, r.GroupKey, r.CertificateFile} {
		if s != "" {
			given++
		}
	}
	switch {
	case r.IDScope == "" || r.ID == "":
		return errors.New("provisioning needs an id scope and a registration id")
	case given != 1 && (given != 0 || r.TLS == nil || r.TLS.GetClientCertificate == nil && len(r.TLS.Certificates) == 0):
		return errors.New("provisioning needs one of a key, a group key and a certificate")
	}
	return nil
}

// Provision registers a device and waits until it is assigned to a hub, or ctx ends. A *ProvisionError is the service's refusal, a
// *RefusedError that of its front door: the enrollment does not exist, or the key is another.
func Provision(ctx context.Context, r Registration) (Assignment, error) {
	if err := r.check(); err != nil {
		return Assignment{}, err
	}
	key, err := r.key()
	if err != nil {
		return Assignment{}, err
	}
	host := r.Host
	if host == "" {
		host = globalHost
	}
	dialing, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	d := dialer{TLS: r.TLS, Host: host, Address: r.Address, WebSocket: r.WebSocket, Proxy: r.Proxy, Dial: r.Dial, Certificate: r.CertificateFile, Key: r.KeyFile}
	nc, err := d.dial(dialing)
	if err != nil {
		return Assignment{}, err
	}
	user := topic.Username{DPS: true, IDScope: r.IDScope, RegistrationID: r.ID, APIVersion: provisioningAPI, ClientType: "vauban-device"}
	packet := mqtt.Connect{CleanSession: true, KeepAlive: 180, ClientID: r.ID, Username: user.String(), HasUsername: true}
	if key != nil {
		token := sas.Sign(r.IDScope+"/registrations/"+r.ID, key, time.Now().Add(provisionToken), "registration")
		packet.Password, packet.HasPassword = []byte(token), true
	}
	conn, err := connect(dialing, nc, &packet, 1)
	if err != nil {
		return Assignment{}, fmt.Errorf("provisioning: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.close(errClosed)
	wg.Go(func() {
		conn.read(func(p mqtt.Publish) {
			if res, err := topic.ParseResponse(string(p.Topic)); err == nil && res.Kind == topic.ResponseDPS {
				conn.answered(res.RID, answer{status: res.Status, retryAfter: res.RetryAfter, body: p.Payload})
			}
		})
	})
	wg.Go(func() { conn.ping(3 * time.Minute) })
	if err := conn.subscribe(dialing, []mqtt.Subscription{{Filter: "$dps/registrations/res/#"}}); err != nil {
		return Assignment{}, err
	}
	a, err := register(ctx, conn, &r)
	if err == nil && key != nil {
		a.key = base64.StdEncoding.EncodeToString(key)
	}
	return a, err
}

// register asks until there is an answer that is final.
func register(ctx context.Context, conn *conn, r *Registration) (Assignment, error) {
	body, err := json.Marshal(struct {
		ID      string          `json:"registrationId"`
		Payload json.RawMessage `json:"payload,omitempty"`
	}{r.ID, r.Payload})
	if err != nil {
		return Assignment{}, fmt.Errorf("the payload is not JSON: %w", err)
	}
	operation := ""
	for n := 1; ; n++ {
		rid := fmt.Sprint(n)
		to, payload := topic.AppendDPSRegister(nil, rid), body
		if operation != "" {
			to, payload = topic.AppendDPSStatus(nil, rid, operation), []byte(" ")
		}
		asking, cancel := context.WithTimeoutCause(ctx, answerTime, errSilent)
		a, err := conn.ask(asking, rid, to, payload)
		cancel()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, errClosed) {
				err = errSilent
			}
			return Assignment{}, fmt.Errorf("provisioning: %w", err)
		}
		var doc struct {
			OperationID string `json:"operationId"`
			Status      string `json:"status"`
			State       struct {
				Hub          string `json:"assignedHub"`
				Device       string `json:"deviceId"`
				ErrorCode    int    `json:"errorCode"`
				ErrorMessage string `json:"errorMessage"`
			} `json:"registrationState"`
			Code    int    `json:"errorCode"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(a.body, &doc); err != nil {
			return Assignment{}, fmt.Errorf("the provisioning service's answer cannot be read: %w", err)
		}
		switch {
		case a.status < 300 && doc.Status == "assigned" && doc.State.Hub != "" && doc.State.Device != "":
			return Assignment{Hub: doc.State.Hub, DeviceID: doc.State.Device}, nil
		case a.status < 300 && doc.Status == "assigning" && doc.OperationID != "":
			operation = doc.OperationID
		case a.status == 429 || a.status >= 500:
		default:
			e := &ProvisionError{Status: a.status, Code: doc.Code, Message: doc.Message}
			if e.Message == "" {
				e.Code, e.Message = doc.State.ErrorCode, strings.TrimSpace(doc.Status+" "+doc.State.ErrorMessage)
			}
			return Assignment{}, e
		}
		wait := min(max(time.Duration(a.retryAfter)*time.Second, time.Second), maxRetryAfter)
		if r.Wait != nil {
			wait = r.Wait(wait)
		}
		select {
		case <-time.After(wait):
		case <-conn.done:
			return Assignment{}, fmt.Errorf("provisioning: %w", conn.why())
		case <-ctx.Done():
			return Assignment{}, ctx.Err()
		}
	}
}
