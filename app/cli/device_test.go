package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/wire/connstr"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

// dialDevice connects as a device SDK does, with paho.
func dialDevice(conn up.Connection, connectionString string) (paho.Client, string, error) {
	cs, err := connstr.Parse(connectionString)
	if err != nil {
		return nil, "", err
	}
	key, err := base64.StdEncoding.DecodeString(cs.SharedAccessKey)
	if err != nil {
		return nil, "", err
	}
	root, err := os.ReadFile(conn.CA)
	if err != nil {
		return nil, "", err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	user := topic.Username{Host: cs.HostName, Device: cs.DeviceID, APIVersion: "2021-04-12"}
	c := paho.NewClient(paho.NewClientOptions().AddBroker("ssl://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(conn.Ports.MQTT))).
		SetTLSConfig(&tls.Config{RootCAs: pool, ServerName: cs.HostName}).SetClientID(cs.DeviceID).SetUsername(user.String()).
		SetPassword(sas.Sign(cs.HostName+"/devices/"+cs.DeviceID, key, time.Now().Add(time.Hour), "")).
		SetAutoReconnect(false).SetProtocolVersion(4))
	if tok := c.Connect(); tok.Wait() && tok.Error() != nil {
		return nil, "", fmt.Errorf("connect: %w", tok.Error())
	}
	return c, cs.DeviceID, nil
}
