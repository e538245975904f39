package secmsg

import (
	"bytes"
	"strings"
	"testing"
)

// masks replaces every text by one of its own kind.
var masks = Mask{
	User:    func(string) string { return "SOMEBODY" },
	Command: func(string) string { return "COMMAND" },
	Text:    func(string) string { return "TEXT" },
}

func TestRewrite_FlatBuffers(t *testing.T) {
	t.Parallel()
	body, want := everything()
	kept := bytes.Clone(body)
	masked, err := Rewrite("2.3-1-0-0", body, masks)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(body, kept) {
		t.Error("the body that was given changed")
	}
	p := want.Events[6].Payload[0].(Process)
	p.UserName, p.CommandLine = "SOMEBODY", "COMMAND"
	want.Events[6].Payload[0] = p
	l := want.Events[7].Payload[0].(Record)
	l.Message = "TEXT"
	want.Events[7].Payload[0] = l
	got, err := Decode("2.3-1-0-0", masked)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the masked message", got, want)
	for _, secret := range []string{"root", "sh -c x"} {
		if bytes.Contains(masked, []byte(secret)) {
			t.Errorf("%q is still in the message", secret)
		}
	}
	same, err := Rewrite("2.3-1-0-0", body, Mask{})
	if err != nil || !bytes.Equal(same, body) {
		t.Errorf("without masks the message changed, %v", err)
	}
}

func TestRewrite_JSON(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"process": {
			` [ {"Name" : "ProcessCreate","Payload":[{"Executable":"/bin/sh","CommandLine":"sh -c \"x\"","UserName":"ada","UserId":"1000","ExtraDetails":{"commandline":"deep"}}]}]`,
			` [ {"Name" : "ProcessCreate","Payload":[{"Executable":"/bin/sh","CommandLine":"COMMAND","UserName":"SOMEBODY","UserId":"1000","ExtraDetails":{"commandline":"COMMAND"}}]}]`,
		},
		"other cases and shapes": {
			`{"Events":[{"Name":"Login","Payload":[{"USERNAME":"ada","user_name":["ada",{"x":"bob"},7],"UserName":null,"GroupNames":"ada;wheel","next":"stays"}]}]}`,
			`{"Events":[{"Name":"Login","Payload":[{"USERNAME":"SOMEBODY","user_name":["SOMEBODY",{"x":"SOMEBODY"},7],"UserName":null,"GroupNames":"SOMEBODY","next":"stays"}]}]}`,
		},
		"values that look like members": {
			`[{"Name":"ProcessCreate","Payload":[{"Executable":"CommandLine","a":["UserName","x"],"CommandLine":""}]}]`,
			`[{"Name":"ProcessCreate","Payload":[{"Executable":"CommandLine","a":["UserName","x"],"CommandLine":""}]}]`,
		},
		"the agent's log": {
			`{"security_module_id":"i","events":[{"payload_type":"Log","payload":{"logs":[{"message":"ada did it","filename":"f"}]}}]}`,
			`{"security_module_id":"i","events":[{"payload_type":"Log","payload":{"logs":[{"message":"TEXT","filename":"f"}]}}]}`,
		},
		"escaped names": {
			`[{"Name":"ProcessCreate","Payload":[{"\u0043ommandLine":"x"}]}]`,
			`[{"Name":"ProcessCreate","Payload":[{"\u0043ommandLine":"COMMAND"}]}]`,
		},
	} {
		got, err := Rewrite("", []byte(c.body), masks)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, got, c.want)
		}
	}
	for name, body := range map[string]string{"no JSON": `{"Events":`, "no message": `{"a":1}`, "two values": `[] []`, "nothing": "", "too large": strings.Repeat(" ", MaxSize+1)} {
		if _, err := Rewrite("1.0-0-1-0", []byte(body), masks); err == nil {
			t.Errorf("%s: masked", name)
		}
	}
}

// FuzzRewrite requires that what was readable stays so, event for event, and that no text is left that should be masked.
func FuzzRewrite(f *testing.F) {
	all, _ := everything()
	f.Add("2.3-1-0-0", all)
	f.Add("2.3-1-0-0", vector(f))
	for _, s := range samples {
		f.Add(s.mti, []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, mti string, body []byte) {
		before, err := Decode(mti, body)
		masked, merr := Rewrite(mti, body, masks)
		if err != nil && merr == nil {
			t.Fatalf("a message that cannot be read (%v) was masked", err)
		}
		if merr != nil {
			return
		}
		after, err := Decode(mti, masked)
		if err != nil {
			t.Fatalf("a masked message cannot be read: %v", err)
		}
		if after.Encoding == JSON && len(after.Events) != len(before.Events) {
			t.Fatalf("%d events became %d", len(before.Events), len(after.Events))
		}
		for i := range after.Events {
			e := &after.Events[i]
			for _, p := range e.Started() {
				if p.CommandLine != "" && p.CommandLine != "COMMAND" || p.UserName != "" && p.UserName != "SOMEBODY" {
					t.Fatalf("a process is left as %+v", p)
				}
			}
		}
	})
}
