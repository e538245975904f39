// Package device is what virtual devices have in common: how they provision themselves and connect, over MQTT.
package device

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/wire/topic"
)

// Service is an installation as devices reach it.
type Service struct {
	Address string // mqtts host:port
	Host    string // of provisioning and hub
	IDScope string
	TLS     *tls.Config // trusts it; holds the certificate of a device that has one
}

// apiVersion is what a device says it speaks.
const apiVersion = "2021-04-12"

// Connect opens a session at the hub. password is a token, or empty for a device that proves itself by its certificate. gone hears
// of the end of the connection.
func (s Service) Connect(ctx context.Context, id, clientType, password string, gone func(error)) (paho.Client, error) {
	user := topic.Username{Host: s.Host, Device: id, APIVersion: apiVersion, ClientType: clientType}
	c := paho.NewClient(s.options(id, user.String(), password).
		SetConnectionLostHandler(func(_ paho.Client, err error) { gone(err) }))
	return c, Wait(ctx, c.Connect())
}

func (s Service) options(clientID, user, password string) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("ssl://" + s.Address).SetTLSConfig(s.TLS).SetClientID(clientID).
		SetUsername(user).SetPassword(password).SetProtocolVersion(4).SetCleanSession(true).
		SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(10 * time.Second)
}

const answerTimeout = 20 * time.Second

// Wait is for what the server answers.
func Wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(answerTimeout):
		return errors.New("no answer in time")
	}
}

// Provision registers a device and returns the id it was given (dps §3, §4). token is as in [Service.Connect].
func (s Service) Provision(ctx context.Context, id, token string) (string, error) {
	user := topic.Username{DPS: true, IDScope: s.IDScope, RegistrationID: id, APIVersion: "2019-03-31"}
	c := paho.NewClient(s.options(id, user.String(), token))
	if err := Wait(ctx, c.Connect()); err != nil {
		return "", err
	}
	defer c.Disconnect(100)
	answers := make(chan paho.Message, 4)
	if err := Wait(ctx, c.Subscribe("$dps/registrations/res/#", 1, func(_ paho.Client, m paho.Message) { answers <- m })); err != nil {
		return "", err
	}
	ask := string(topic.AppendDPSRegister(nil, "1"))
	for {
		if err := Wait(ctx, c.Publish(ask, 1, false, `{"registrationId":"`+id+`"}`)); err != nil {
			return "", err
		}
		var m paho.Message
		select {
		case m = <-answers:
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(answerTimeout):
			return "", errors.New("no answer in time")
		}
		r, err := topic.ParseResponse(m.Topic())
		if err != nil {
			return "", err
		}
		var body struct {
			OperationID string `json:"operationId"`
			Status      string `json:"status"`
			State       struct {
				DeviceID string `json:"deviceId"`
			} `json:"registrationState"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(m.Payload(), &body); err != nil {
			return "", err
		}
		switch {
		case body.Status == "assigned":
			return body.State.DeviceID, nil
		case r.Status != 202:
			return "", fmt.Errorf("refused with %d: %s", r.Status, strings.TrimSpace(body.Message+" "+body.Status))
		}
		ask = string(topic.AppendDPSStatus(nil, "2", body.OperationID))
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Duration(max(r.RetryAfter, 1)) * time.Second):
		}
	}
}
