package network

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func question(t testing.TB) dnsmessage.Question {
	t.Helper()
	return dnsmessage.Question{Name: dnsmessage.MustNewName("hub.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
}
