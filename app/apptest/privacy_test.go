package apptest_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/internal/conform"
)

// written reports whether a file of the installation holds text.
func written(t *testing.T, v *apptest.Vauban, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(v.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		found = found || bytes.Contains(data, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What a group's policy masks is in no file, from the first message on; rules about users still find theirs.
func TestVauban_Privacy(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-44")
	v := apptest.Start(t)
	topic := "devices/%s/messages/events/%%24.ifid=urn%%3Aazureiot%%3ASecurity%%3ASecurityAgent%%3A1"
	body := func(who string) []byte {
		return fmt.Appendf(nil, `{"AgentVersion":"0.0.5","AgentId":"a","MessageSchemaVersion":"1.0","Events":[
			{"EventType":"Security","Category":"Triggered","Name":"ProcessCreate","Id":"1","PayloadSchemaVersion":"1.0","Payload":[{"Executable":"/usr/bin/curl","CommandLine":"curl --user password-of-%[1]s","UserName":"%[1]s","UserId":"1000"}]},
			{"EventType":"Security","Category":"Triggered","Name":"Login","Id":"2","PayloadSchemaVersion":"1.0","Payload":[{"Operation":"Login","Result":"Success","Executable":"sshd","UserName":"%[1]s"}]}]}`, who)
	}
	for _, id := range []string{"desk", "plain"} {
		v.Device(id)
	}
	if _, err := v.Service().PatchTwin(t.Context(), "desk", []byte(`{"tags":{"SecurityGroup":"office"}}`), ""); err != nil {
		t.Fatal(err)
	}
	if status := operate(t, v, "PUT", "/api/security-groups/office", `{"properties":{"denylistRules":[{"ruleType":"LocalUserDenied","isEnabled":true,"denylistValues":["ada.lovelace"]}]}}`, nil); status != 201 {
		t.Fatalf("rules: %d", status)
	}
	if got := must(t, v, "security-group", "privacy", "office", "--user-names", "--command-lines"); !strings.Contains(got, "user names are masked, command lines are masked") {
		t.Errorf("privacy: %s", got)
	}
	send := func(device, who string) []record.Row {
		d, err := v.Service().Device(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := connect(t, v, d)
		c.Publish(fmt.Sprintf(topic, device), body(who))
		c.Publish(fmt.Sprintf(topic, device), []byte(`{"Events": broken `+who))
		c.Disconnect()
		var events struct{ Events []record.Row }
		eventually(t, "the events", func() bool {
			operate(t, v, "GET", "/api/security-events?device="+device, "", &events)
			return len(events.Events) == 3
		})
		return events.Events
	}
	send("plain", "grace.hopper")
	for _, text := range []string{"grace.hopper", "password-of-grace"} {
		if !written(t, v, text) {
			t.Fatalf("%q is in no file though nothing masks it: the test cannot see", text)
		}
	}
	rows := send("desk", "ada.lovelace")
	for _, text := range []string{"ada.lovelace", "password-of-ada"} {
		if written(t, v, text) {
			t.Errorf("%q was written to a file", text)
		}
	}
	for _, r := range rows {
		switch details := string(r.Details); r.Name {
		case "ProcessCreate":
			if !strings.Contains(details, `"CommandLine":"curl [masked]"`) || !strings.Contains(details, `"UserName":"user-`) || !strings.Contains(details, `"UserId":"1000"`) {
				t.Errorf("process %s", details)
			}
		case record.InvalidMessage:
			if !strings.Contains(r.Problem+details, "malformed") {
				t.Errorf("unreadable: %+v %s", r, details)
			}
		}
	}
	eventually(t, "the alert", func() bool {
		as := alertsOf(t, v, "device=desk&type=IoT_CA_LocalUserDenied")
		return len(as) == 1 && !strings.Contains(as[0].Description, "ada")
	})

	// It survives a restart, and ends when it is lifted.
	v.Restart()
	if got := must(t, v, "security-group", "privacy", "office", "--command-lines=false", "--output", "json"); !strings.Contains(got, `"userNames": true`) || !strings.Contains(got, `"commandLines": false`) {
		t.Errorf("privacy: %s", got)
	}
	d, err := v.Service().Device(t.Context(), "desk")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t, v, d)
	c.Publish(fmt.Sprintf(topic, "desk"), body("alan.turing"))
	eventually(t, "the command line", func() bool { return written(t, v, "password-of-alan") })
	if written(t, v, `"alan.turing"`) {
		t.Error("the user's name was written")
	}
}
