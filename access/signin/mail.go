package signin

import (
	"net/mail"
	"strings"

	"github.com/vauban-iot/vauban/fault"
)

const maxMail = 254 // RFC 5321 §4.5.3.1.3, without the angle brackets

// ParseMail checks a mail address and returns it as it will be kept. Only ASCII is taken: two addresses that look
// alike must not be two accounts, and a domain in another script has an ASCII form (RFC 5891).
func ParseMail(s string) (string, error) {
	s = strings.TrimSpace(s)
	bad := fault.New(fault.Invalid, "that is no mail address this installation takes (want name@example.com)")
	if s == "" || len(s) > maxMail {
		return "", bad
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`"<>()[]\,;:`, s[i]) >= 0 {
			return "", bad
		}
	}
	a, err := mail.ParseAddress(s)
	if err != nil || a.Name != "" || a.Address != s {
		return "", bad
	}
	return s, nil
}

// Fold is how mail addresses compare. They are ASCII.
func Fold(mail string) string { return strings.ToLower(mail) }
