package apptest_test

import (
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
)

// WebSockets share the HTTPS port with everything else there; the console keeps the root for browsers.
func TestSocketsShareThePort(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	for _, path := range []string{"/$iothub/websocket", "/$iothub/websocket?iothub-no-client-cert=true", "/"} {
		for _, protocol := range []string{"mqtt", "MQTT", "AMQPWSB10"} {
			mqtttest.DialWebSocket(t, v.Address(v.Ports.HTTPS), path, protocol, v.TLS()).Drop()
		}
	}
	resp, err := v.HTTP().Get("https://" + v.Address(v.Ports.HTTPS) + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the console answers %d", resp.StatusCode)
	}
}
