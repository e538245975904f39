package compat_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestUpload drives file upload on a server of its own, because it takes the notices of all files, and
// with it azure-iot-device-http.
func TestUpload(t *testing.T) {
	if testing.Short() {
		t.Skip("drives npm packages; run without -short")
	}
	for _, name := range []string{"@azure/storage-blob", "azure-iot-device-http"} {
		if _, err := os.Stat("node_modules/" + name + "/package.json"); err != nil {
			t.Fatalf("Azure's packages are not installed: %v; run `make deps`", err)
		}
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; Azure's packages need Node.js 18 or later", err)
	}
	server, certificates := start(t, build(t)), makeCertificates(t)
	for _, script := range []string{"upload.js", "http.js"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			run(t, node, []string{script}, server, certificates)
		})
	}
}
