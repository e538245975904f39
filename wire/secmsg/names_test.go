package secmsg

import (
	"fmt"
	"strings"
	"testing"
)

func TestEvent_Resolutions(t *testing.T) {
	t.Parallel()
	many := strings.TrimSuffix(strings.Repeat(`"192.0.2.1",`, 20), ",")
	for _, c := range []struct{ event, payload, want string }{
		{"DNS", `{"Name":"Time.Example.","Addresses":["192.0.2.1","::ffff:192.0.2.2","no"]}`, "[{time.example [192.0.2.1 192.0.2.2] 0}]"},
		{"dns", `{"queryName":"a.example","addresses":["2001:db8::1%eth0"]},{"Name":"b.example","Addresses":[]}`, "[{a.example [2001:db8::1] 0}]"},
		{"DNS", `{"Name":"a b","Addresses":["192.0.2.1"]},{"Name":7,"Addresses":{}},{"Name":"` + strings.Repeat("x", 254) + `","Addresses":["192.0.2.1"]}`, "[]"},
		{"ConnectionCreate", `{"RemoteAddress":"192.0.2.9","ExtraDetails":{"DnsName":"hub.example","HitCount":3}},{"RemoteAddress":"192.0.2.9"}`, "[{hub.example [192.0.2.9] 0}]"},
		{"ProcessCreate", `{"Name":"time.example","Addresses":["192.0.2.1"]}`, "[]"},
	} {
		r, err := Decode("", []byte(`{"MessageSchemaVersion":"1.0","Events":[{"Name":"`+c.event+`","Payload":[`+c.payload+`]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(r.Events[0].Resolutions()); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.event, c.payload, got, c.want)
		}
	}
	r, err := Decode("", []byte(`{"MessageSchemaVersion":"1.0","Events":[{"Name":"DNS","Payload":[{"Name":"a.example","Addresses":[`+many+`]}]}]}`))
	if err != nil || len(r.Events[0].Resolutions()[0].Addresses) != maxResolved {
		t.Errorf("%+v, %v", r, err)
	}
}
