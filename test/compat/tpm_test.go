package compat_test

import (
	"os/exec"
	"testing"

	"github.com/vauban-iot/vauban/wire/tpm/tpmtest"
)

// azure-iot-security-tpm with a software TPM.
func TestCompat_TPM(t *testing.T) {
	if testing.Short() {
		t.Skip("drives npm packages; run without -short")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; Azure's packages need Node.js 18 or later", err)
	}
	t.Setenv("VAUBAN_TPM", tpmtest.Socket(t))
	run(t, node, []string{"provisioning-tpm.js"}, start(t, build(t)), makeCertificates(t))
}
