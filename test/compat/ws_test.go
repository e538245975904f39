package compat_test

// The scripts about MQTT in a WebSocket.
func init() {
	scripts = append(scripts, script{name: "WebSocket", args: []string{"ws.js"}})
}
