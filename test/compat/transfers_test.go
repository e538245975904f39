package compat_test

import (
	"os/exec"
	"testing"
)

// TestTransfers drives imports and exports on a server of its own: one may be at a time, and an export holds all devices.
func TestTransfers(t *testing.T) {
	if testing.Short() {
		t.Skip("drives npm packages; run without -short")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; Azure's packages need Node.js 18 or later", err)
	}
	run(t, node, []string{"transfers.js"}, start(t, build(t)), makeCertificates(t))
}
