package apptest_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/sdk/service"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// The operator's switches hold from the next authentication on, over both ports, and after a restart.
func TestAuthenticationSwitches(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	d := v.Device("lamp-1")
	hello := wire.Connect{
		ClientID: d.DeviceID, Username: v.Hub.Hostname + "/" + d.DeviceID + "/?api-version=2021-04-12", HasUsername: true,
		Password: []byte(v.Token(d)), HasPassword: true, CleanSession: true, KeepAlive: 60,
	}
	connects := func(want byte) {
		t.Helper()
		for name, c := range map[string]*mqtttest.Client{
			"TLS":       mqtttest.Dial(t, v.Address(v.Ports.MQTT), v.TLS()),
			"WebSocket": mqtttest.DialWebSocket(t, v.Address(v.Ports.HTTPS), "/$iothub/websocket", "MQTT", v.TLS()),
		} {
			if _, code := c.Connect(hello); code != want {
				t.Errorf("over %s: CONNACK %d, want %d", name, code, want)
			}
			c.Drop()
		}
	}
	put := func(switches string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+v.Address(v.Ports.HTTPS)+"/api/authentication", strings.NewReader(switches))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+v.API.Token)
		resp, err := v.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
			t.Fatalf("status %d %s", resp.StatusCode, b)
		}
	}
	connects(0)
	put(`{"disableDeviceSAS":true}`)
	connects(5)
	v.Restart()
	connects(5)
	put(`{"disableLocalAuth":true}`)
	connects(0)
	_, err := v.Service().Device(t.Context(), d.DeviceID)
	if e, ok := errors.AsType[*service.Error](err); !ok || e.Status != 401 {
		t.Errorf("a service with a policy's token: %v, want 401", err)
	}
	put(`{}`)
	if _, err := v.Service().Device(t.Context(), d.DeviceID); err != nil {
		t.Error(err)
	}
	hubtest.Until(t, "the last connection to end", func() bool {
		got, err := v.Service().Device(t.Context(), d.DeviceID)
		return err == nil && got.ConnectionState == "Disconnected"
	})
}
