// Package connstr reads and writes the connection strings of IoT Hub devices, modules and
// service clients (hub-service §1.2).
package connstr

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// MaxLength bounds a connection string in bytes.
const MaxLength = 4096

// ErrMalformed is returned for text that is no connection string. Its messages never quote the text.
var ErrMalformed = errors.New("connstr: malformed connection string")

// String is a connection string taken apart. Absent parts are empty. It holds a key: printing
// and logging show it redacted, Reveal shows all.
type String struct {
	HostName            string
	DeviceID            string
	ModuleID            string
	SharedAccessKeyName string
	SharedAccessKey     string // base64 text
	GatewayHostName     string
	X509                bool
}

// Parse reads Name=value pairs separated by ';', each split at its first '='. Names are
// compared without case; unknown names and empty pairs are skipped; space around names and
// values is dropped. A known name given twice, a pair without '=' and a missing HostName are ErrMalformed.
func Parse(s string) (String, error) {
	if len(s) > MaxLength {
		return String{}, malformed("too long")
	}
	var c String
	var x509 string
	parts := c.parts(&x509)
	var seen [7]bool
	for pair := range strings.SplitSeq(s, ";") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return String{}, malformed("part without =")
		}
		name = strings.TrimSpace(name)
		for i, p := range parts {
			if !strings.EqualFold(p.name, name) {
				continue
			}
			if seen[i] {
				return String{}, malformed(p.name + " given twice")
			}
			seen[i], *p.value = true, strings.TrimSpace(value)
		}
	}
	if c.HostName == "" {
		return String{}, malformed("no HostName")
	}
	c.X509 = strings.EqualFold(x509, "true")
	return c, nil
}

type part struct {
	name  string
	value *string
}

// parts lists the names in Azure's usual order.
func (c *String) parts(x509 *string) [7]part {
	return [...]part{
		{"HostName", &c.HostName},
		{"DeviceId", &c.DeviceID},
		{"ModuleId", &c.ModuleID},
		{"SharedAccessKeyName", &c.SharedAccessKeyName},
		{"SharedAccessKey", &c.SharedAccessKey},
		{"GatewayHostName", &c.GatewayHostName},
		{"x509", x509},
	}
}

// Reveal renders the connection string with its key, in Azure's usual order and without empty
// parts. A value with a ';' in it cannot be expressed.
func (c String) Reveal() string {
	var x509 string
	if c.X509 {
		x509 = "true"
	}
	var b strings.Builder
	for _, p := range c.parts(&x509) {
		if *p.value == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(';')
		}
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(*p.value)
	}
	return b.String()
}

// String is Reveal with the key replaced.
func (c String) String() string {
	if c.SharedAccessKey != "" {
		c.SharedAccessKey = "[redacted]"
	}
	return c.Reveal()
}

// Format prints String whatever the verb, so that no %+v shows the key.
func (c String) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// LogValue is String.
func (c String) LogValue() slog.Value { return slog.StringValue(c.String()) }

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }
