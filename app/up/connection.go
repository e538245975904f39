package up

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vauban-iot/vauban/internal/atomicfile"
)

// Connection is everything a program needs to reach an installation (design §6). It holds secrets.
type Connection struct {
	Hub struct {
		Hostname         string `json:"hostname"`
		ConnectionString string `json:"connectionString"`
	} `json:"hub"`
	DPS struct {
		Hostname         string `json:"hostname"`
		IDScope          string `json:"idScope"`
		ConnectionString string `json:"connectionString"`
	} `json:"dps"`
	Console struct {
		URL      string `json:"url"`
		User     string `json:"user"`
		Password string `json:"password"`
	} `json:"console"`
	API struct {
		URL   string `json:"url"`
		Token string `json:"token"`
	} `json:"api"`
	CA    string `json:"ca"`
	Ports Ports  `json:"ports"`

	address string // where to reach the listeners from this machine
}

// Ports are the TCP ports in use.
type Ports struct {
	MQTT  int `json:"mqtt"`
	HTTPS int `json:"https"`
	AMQP  int `json:"amqp"`
}

// ConnectionFile is where an installation keeps its connection data, in its data folder.
const ConnectionFile = "connection.json"

func (s *system) connection(*listeners) Connection {
	var c Connection
	c.Hub.Hostname = s.cfg.Hostname
	c.Hub.ConnectionString = s.settings.hub[0].ConnectionString(s.cfg.Hostname)
	c.DPS.Hostname = s.cfg.Hostname
	c.DPS.IDScope = s.settings.idScope
	c.DPS.ConnectionString = s.settings.provisioning[0].ConnectionString(s.cfg.Hostname)
	url := "https://" + s.cfg.Hostname + "/"
	if s.cfg.HTTPSPort != 443 {
		url = "https://" + net.JoinHostPort(s.cfg.Hostname, strconv.Itoa(s.cfg.HTTPSPort)) + "/"
	}
	c.Console.URL, c.Console.User, c.Console.Password = url, "admin", string(s.settings.password.Reveal())
	c.API.URL, c.API.Token = url, string(s.settings.token.Reveal())
	c.CA = s.pki.RootFile()
	if abs, err := filepath.Abs(c.CA); err == nil {
		c.CA = abs
	}
	c.Ports = Ports{MQTT: s.cfg.MQTTPort, HTTPS: s.cfg.HTTPSPort, AMQP: s.cfg.AMQPPort}
	c.address = s.cfg.Listen
	if ip := net.ParseIP(c.address); ip.IsUnspecified() {
		c.address = "127.0.0.1"
		if ip.To4() == nil {
			c.address = "::1"
		}
	}
	return c
}

func (c Connection) save(dir string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, ConnectionFile), append(data, '\n'), 0o600)
}

// LoadConnection reads the connection data of the installation in dir.
func LoadConnection(path string) (Connection, error) {
	var c Connection
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("%w; start `vauban up` first, or name its data folder with --data", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s is damaged: %w; restart `vauban up` to write it anew", path, err)
	}
	return c, nil
}
