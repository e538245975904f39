// Package compat_test drives Azure's own npm packages, unmodified, against a running
// `vauban up`. Each script of this folder covers one area of an SDK; every case in it is a
// subtest here, with the items of the conformance register it proves.
//
// `make deps` installs the packages. The SDKs insist on ports 8883 and 443, so
// every server of these tests takes a loopback address of its own.
package compat_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki/pkitest"
)

// script is an area. One that stops its server has it to itself.
type script struct {
	name  string
	args  []string
	alone bool
}

var scripts = []script{
	{name: "restart", args: []string{"restart.js"}, alone: true},
	{name: "provisioning over MQTT", args: []string{"provisioning-device.js", "MQTT"}},
	{name: "provisioning over HTTPS", args: []string{"provisioning-device.js", "HTTPS"}},
	{name: "provisioning service", args: []string{"provisioning-service.js"}},
	{name: "method", args: []string{"method.js"}},
	{name: "device", args: []string{"device.js"}},
	{name: "x509", args: []string{"x509.js"}},
	{name: "registry", args: []string{"registry.js"}},
	{name: "twin", args: []string{"twin.js"}},
}

// TestMain lets all scripts run side by side, however few processors there are: they wait most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(len(scripts))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestCompat(t *testing.T) {
	if testing.Short() {
		t.Skip("drives npm packages for most of a minute; run without -short")
	}
	if _, err := os.Stat("node_modules/azure-iot-device/package.json"); err != nil {
		t.Fatalf("Azure's packages are not installed: %v; run `make deps`", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; Azure's packages need Node.js 18 or later", err)
	}
	bin := build(t)
	certificates := makeCertificates(t)
	shared := start(t, bin)
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			server := shared
			if s.alone {
				server = start(t, bin)
			}
			run(t, node, s.args, server, certificates)
		})
	}
}

func build(t *testing.T) string {
	bin := filepath.Join(t.TempDir(), "vauban")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/vauban-iot/vauban/cmd/vauban").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// server is a running installation.
type server struct {
	bin, data, address string
	connection         string // file

	cmd *exec.Cmd
	log *logBuffer
}

// logBuffer holds what a server wrote to standard error.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startTime bounds how long a server may take until all its listeners answer.
const startTime = 30 * time.Second

var errBusy = errors.New("a port is in use")

// start runs a new installation on the first loopback address whose ports are free.
func start(t *testing.T, bin string) *server {
	t.Helper()
	dir := t.TempDir()
	for i := 1; i < 255; i++ {
		s := &server{bin: bin, data: filepath.Join(dir, fmt.Sprint("data", i)), address: fmt.Sprintf("127.0.77.%d", i), log: &logBuffer{}}
		err := s.up()
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			t.Fatalf("vauban up: %v\n%s", err, s.log)
		}
		t.Cleanup(func() {
			if err := s.down(); err != nil {
				t.Errorf("vauban up ended with %v", err)
			}
			log := s.log.String()
			if strings.Contains(log, "level=ERROR") || strings.Contains(log, "panic:") {
				t.Error("the server logged an error")
			}
			if t.Failed() {
				t.Logf("server log:\n%s", log)
			}
		})
		return s
	}
	t.Fatal("ports 8883, 443 and 5671 are in use on every address of 127.0.77.0/24")
	return nil
}

// up starts the process and returns when its listeners answer.
func (s *server) up() error {
	s.cmd = exec.Command(s.bin, "up", "--data", s.data, "--listen", s.address, "--hostname", s.address, "--output", "json", "--verbose")
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(startTime, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		err = s.cmd.Wait()
		if strings.Contains(s.log.String(), "is in use") {
			return errBusy
		}
		return fmt.Errorf("ended before it was ready: %w", err)
	}
	var c struct {
		Ports struct{ MQTT, HTTPS, AMQP int }
	}
	if err := json.Unmarshal(line, &c); err != nil {
		return fmt.Errorf("its line %q: %w", line, err)
	}
	if c.Ports.MQTT != 8883 || c.Ports.HTTPS != 443 {
		return errors.Join(fmt.Errorf("the SDKs insist on ports 8883 and 443 and this user may not bind them: run as root, or allow it with `sysctl net.ipv4.ip_unprivileged_port_start=443`"), s.down())
	}
	s.connection = filepath.Join(s.data, "connection.json")
	return nil
}

// down interrupts the process, which then drains and exits with 0.
func (s *server) down() error {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	timer := time.AfterFunc(startTime, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	return s.cmd.Wait()
}

// planned is a case as a script announces it.
type planned struct {
	Name string
	IDs  []string
}

// line is what scripts report on descriptor 3: the plan, then outcomes and requests.
type line struct {
	Plan  []planned
	Name  string
	Error string
	Ask   string
}

// scriptTime bounds one script.
const scriptTime = 85 * time.Second

func run(t *testing.T, node string, args []string, s *server, certificates string) {
	script := args[0]
	reports, child, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reports.Close()
	cmd := exec.CommandContext(t.Context(), node, args...)
	cmd.Env = append(os.Environ(),
		"NODE_EXTRA_CA_CERTS="+filepath.Join(s.data, "pki", "root.pem"),
		"NODE_NO_WARNINGS=1", // of punycode and friends in old packages
		"VAUBAN_CONNECTION="+s.connection, "VAUBAN_CERTIFICATES="+certificates, "VAUBAN_BIN="+s.bin)
	cmd.ExtraFiles = []*os.File{child}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	answers, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Start()
	child.Close()
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(scriptTime, func() { cmd.Process.Kill() })
	defer timer.Stop()

	var plan []planned
	outcomes := make(map[string]string)
	for in := bufio.NewReader(reports); ; {
		text, err := in.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatalf("%s reports %q: %v", script, text, err)
		}
		switch {
		case l.Plan != nil:
			plan = l.Plan
		case l.Ask != "":
			if err := s.do(l.Ask); err != nil {
				t.Errorf("%s: %v\n%s", l.Ask, err, s.log)
				cmd.Process.Kill()
				continue
			}
			fmt.Fprintln(answers, "done")
		default:
			outcomes[l.Name] = l.Error
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", script, err)
	}
	if len(plan) == 0 {
		t.Errorf("%s has no cases", script)
	}
	for _, c := range plan {
		t.Run(c.Name, func(t *testing.T) {
			if len(c.IDs) > 0 {
				conform.Covers(t, c.IDs...)
			}
			switch failure, ok := outcomes[c.Name]; {
			case !ok:
				t.Error("the script ended before this case")
			case failure != "":
				t.Error(failure)
			}
		})
	}
	if t.Failed() {
		t.Logf("%s printed:\n%s", script, output.Bytes())
	}
}

// do carries out a script's request.
func (s *server) do(what string) error {
	switch what {
	case "restart":
		if err := s.down(); err != nil {
			return err
		}
		return s.up()
	case "stop":
		return s.down()
	case "start":
		return s.up()
	}
	return errors.New("unknown request")
}

// makeCertificates writes the certificates of the devices that prove themselves with one, as a
// JSON object the scripts read: name to PEM texts.
func makeCertificates(t *testing.T) string {
	type texts struct {
		Cert string `json:"cert"` // with the chain above it
		Leaf string `json:"leaf"` // alone
		Key  string `json:"key"`
	}
	all := make(map[string]any)
	add := func(name string, c tls.Certificate) {
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		var v texts
		for i, der := range c.Certificate {
			text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
			if v.Cert += text; i == 0 {
				v.Leaf = text
			}
		}
		v.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		all[name] = v
	}
	for _, name := range []string{"self-1", "self-2", "enrolled-1", "enrolled-2", "socket-1", "socket-2"} {
		add(name, pkitest.SelfSigned(t, name))
	}
	for _, name := range []string{"factory", "plant", "line", "stranger"} {
		ca := pkitest.NewCA(t, name+" root")
		below := ca.Intermediate(t, name+" intermediate")
		all[name+"-ca"] = string(ca.PEM())
		all[name+"-intermediate"] = string(below.PEM())
		for i := 1; i <= 3; i++ {
			add(fmt.Sprintf("%s-%d", name, i), below.Leaf(t, fmt.Sprintf("%s-%d", name, i)))
		}
		add(name+"-direct", ca.Leaf(t, name+"-direct"))
		add(name+"-expired", below.Leaf(t, name+"-expired", pkitest.Expired()))
	}
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "certificates.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
