// Package rsyslogtest runs an rsyslog of Debian in a test: TLS with client certificates, messages of RFC 5424, and CEF read by
// liblognorm's parser. It is the judge of what is sent to syslog servers.
package rsyslogtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Server is one rsyslog. Its messages are written before it reads on, so that what was read is there.
type Server struct {
	Address     string // 127.0.0.1:port, also after Start
	CA          string // PEM
	Certificate string // of a client, PEM
	Key         string // PEM

	t   testing.TB
	dir string
	cmd *exec.Cmd
	log bytes.Buffer
}

// Message is one that the server took.
type Message struct {
	Text       string `json:"msg"`
	Host       string `json:"hostname"`
	App        string `json:"app-name"`
	ID         string `json:"msgid"`
	Time       string `json:"timereported"`
	Facility   string `json:"syslogfacility"`
	Severity   string `json:"syslogseverity"`
	Structured struct {
		CEF struct {
			Vendor     string `json:"DeviceVendor"`
			Product    string `json:"DeviceProduct"`
			Version    string `json:"DeviceVersion"`
			Class      string `json:"SignatureID"`
			Name       string
			Severity   string
			Extensions map[string]string
		} `json:"cef"`
	} `json:"$!"`
}

// New makes a server with certificates of its own, and starts it. Clients must show the certificate.
func New(t testing.TB) *Server {
	t.Helper()
	// A path of its own: the daemon's home is not in everybody's PATH.
	if _, err := os.Stat(daemon); err != nil {
		t.Fatalf("%v; install what tests stand on: make deps", err)
	}
	s := &Server{t: t, dir: t.TempDir()}
	s.certificates()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(s.Address)
	config := fmt.Sprintf(`global(workDirectory="%[1]s" defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="%[1]s/ca.pem"
	defaultNetstreamDriverCertFile="%[1]s/server.pem" defaultNetstreamDriverKeyFile="%[1]s/server.key" maxMessageSize="16k")
main_queue(queue.type="Direct")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
module(load="mmnormalize")
template(name="json" type="list") { property(name="jsonmesg") constant(value="\n") }
ruleset(name="all" queue.type="Direct") {
	action(type="mmnormalize" rule=["rule=:%%cef:cef%%"] useRawMsg="off")
	action(type="omfile" file="%[1]s/messages" template="json" asyncWriting="off" flushOnTXEnd="on")
}
input(type="imtcp" address="127.0.0.1" port="%[2]s" ruleset="all")
`, s.dir, port)
	s.write("rsyslog.conf", config)
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

const daemon = "/usr/sbin/rsyslogd"

// Start starts it at its address.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd = exec.Command(daemon, "-n", "-f", s.path("rsyslog.conf"), "-i", s.path("pid"))
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			s.Kill()
			s.t.Fatalf("rsyslog does not answer: %v\n%s", err, s.log.String())
		}
	}
}

// Kill ends it as a crash does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may be gone
	_ = s.cmd.Wait()         // killed
	s.cmd = nil
	if s.t.Failed() {
		s.t.Logf("rsyslog: %s", s.log.String())
	}
}

// Messages are all that it took so far.
func (s *Server) Messages() []Message {
	s.t.Helper()
	data, err := os.ReadFile(s.path("messages"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var all []Message
	for line := range strings.Lines(string(data)) {
		var m Message
		if !strings.HasSuffix(line, "\n") {
			break // it is being written, or it was when it crashed
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			s.t.Fatalf("%v: %s", err, line)
		}
		m.Text = strings.TrimPrefix(m.Text, " ")
		all = append(all, m)
	}
	return all
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// certificates makes a CA, and certificates of the server and of a client.
func (s *Server) certificates() {
	s.t.Helper()
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rsyslog CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	must(err)
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	s.CA = text("CERTIFICATE", der)
	leaf := func(serial int64, name string) (string, string) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}, ca, own.Public(), key)
		must(err)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(own)
		must(err)
		return text("CERTIFICATE", der), text("PRIVATE KEY", pkcs8)
	}
	server, serverKey := leaf(2, "server")
	s.Certificate, s.Key = leaf(3, "vauban")
	s.write("ca.pem", s.CA)
	s.write("server.pem", server)
	s.write("server.key", serverKey)
}
