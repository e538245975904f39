package node

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

// baseURL is where the HTTPS port is reached from outside.
func (n *Node) baseURL() string {
	if n.cfg.HTTPSPort == 443 {
		return "https://" + n.cfg.Hostname + "/"
	}
	return "https://" + net.JoinHostPort(n.cfg.Hostname, strconv.Itoa(n.cfg.HTTPSPort)) + "/"
}

func (n *Node) connection(*listeners) Connection {
	var c Connection
	c.Hub.Hostname = n.cfg.Hostname
	c.Hub.ConnectionString = n.settings.hub[0].ConnectionString(n.cfg.Hostname)
	c.DPS.Hostname = n.cfg.Hostname
	c.DPS.IDScope = n.settings.idScope
	c.DPS.ConnectionString = n.settings.provisioning[0].ConnectionString(n.cfg.Hostname)
	url := n.baseURL()
	c.Console.URL, c.Console.User, c.Console.Password = url, "admin", string(n.settings.password.Reveal())
	c.API.URL, c.API.Token = url, string(n.settings.token.Reveal())
	c.CA = n.PKI.RootFile()
	if abs, err := filepath.Abs(c.CA); err == nil {
		c.CA = abs
	}
	c.Ports = Ports{MQTT: n.cfg.MQTTPort, HTTPS: n.cfg.HTTPSPort, AMQP: n.cfg.AMQPPort}
	c.address = local(n.cfg.Listen)
	return c
}

// local is where this machine reaches what listens on an address.
func local(listen string) string {
	if ip := net.ParseIP(listen); ip.IsUnspecified() {
		if ip.To4() == nil {
			return "::1"
		}
		return "127.0.0.1"
	}
	return listen
}

// Address is where this machine reaches the listeners.
func (c Connection) Address() string { return c.address }

func (c Connection) save(path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// LoadConnection reads the connection data of an installation.
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
