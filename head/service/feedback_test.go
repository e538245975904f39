package service_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/head/service"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

const (
	feedbackPath = "/messages/serviceBound/feedback"
	apiVersion   = "?api-version=2021-04-12"
)

// record is one row of feedback as it stands on the wire.
type record struct {
	OriginalMessageID  string `json:"originalMessageId"`
	EnqueuedTimeUTC    string `json:"enqueuedTimeUtc"`
	StatusCode         string `json:"statusCode"`
	Description        string `json:"description"`
	DeviceID           string `json:"deviceId"`
	DeviceGenerationID string `json:"deviceGenerationId"`
}

func records(t testing.TB, body []byte) (all []record) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&all); err != nil {
		t.Fatalf("feedback %s: %v", body, err)
	}
	return all
}

// feedback reads a batch and returns its lock token and "id outcome" of each record.
func (s *server) feedback(t testing.TB) (token string, all []string) {
	t.Helper()
	a := s.owner(t, 200, "GET", feedbackPath+apiVersion, "")
	for _, r := range records(t, a.body) {
		all = append(all, r.OriginalMessageID+" "+r.StatusCode)
	}
	return strings.Trim(a.header("ETag"), `"`), all
}

func (s *server) mail(t testing.TB, d registry.Identity, id, ack string) {
	t.Helper()
	s.owner(t, 204, "POST", "/devices/"+d.ID.Device+"/messages/deviceBound"+apiVersion, "x", "iothub-messageid", id, "iothub-ack", ack)
}

// settle has the device take its next message, which must be id, and end its lock.
func (s *server) settle(t testing.TB, d registry.Identity, id string, how iot.Settlement) {
	t.Helper()
	v, err := s.Visit(t.Context(), s.Credentials(d))
	if err != nil {
		t.Fatal(err)
	}
	m, ok, err := v.Receive(t.Context(), time.Minute)
	if err != nil || !ok || m.MessageID != id {
		t.Fatalf("received %v %q, %v; want message %s", ok, m.MessageID, err, id)
	}
	if err := v.Settle(t.Context(), m.LockToken, how); err != nil {
		t.Fatal(err)
	}
}

func TestFeedback_Record(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.device(t, "d#1")
	s.owner(t, 204, "GET", feedbackPath+apiVersion, "")
	s.owner(t, 204, "POST", "/devices/d%231/messages/deviceBound", "x", "iothub-messageid", "m 1", "iothub-ack", "full")
	s.settle(t, d, "m 1", iot.Completed)
	a := s.owner(t, 200, "GET", feedbackPath+apiVersion, "")
	if !regexp.MustCompile(`^"[0-9a-f-]{36}"$`).MatchString(a.header("ETag")) || a.Header.Get("Content-Type") != "application/json; charset=utf-8" ||
		a.header("iothub-enqueuedtime") == "" || a.header("ContentType") != "application/vnd.microsoft.iothub.feedback.json" {
		t.Errorf("header %v", a.Header)
	}
	got := records(t, a.body)
	if len(got) != 1 {
		t.Fatalf("%d records, want 1", len(got))
	}
	at, err := time.Parse(time.RFC3339, got[0].EnqueuedTimeUTC)
	if err != nil || time.Since(at) > time.Minute || !strings.HasSuffix(got[0].EnqueuedTimeUTC, "Z") {
		t.Errorf("time %q, want now", got[0].EnqueuedTimeUTC)
	}
	want := record{"m 1", got[0].EnqueuedTimeUTC, "Success", "Success", "d#1", d.Generation}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestFeedback_Settlement(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-095")
	s := serve(t)
	d := s.device(t, "d")

	// The device's side: abandon redelivers, complete and reject remove, a lapsed lock redelivers.
	s.mail(t, d, "1", "full")
	s.mail(t, d, "2", "full")
	s.settle(t, d, "1", iot.Abandoned)
	v, err := s.Visit(t.Context(), s.Credentials(d))
	if err != nil {
		t.Fatal(err)
	}
	if m, ok, err := v.Receive(t.Context(), time.Minute); err != nil || !ok || m.MessageID != "1" || m.DeliveryCount != 1 {
		t.Fatalf("after abandon: %+v, %v", m, err)
	}
	s.Clock.Add(61 * time.Second)
	s.settle(t, d, "1", iot.Completed)
	s.settle(t, d, "2", iot.Rejected)
	if _, ok, err := v.Receive(t.Context(), time.Minute); ok || err != nil {
		t.Errorf("a message is left: %v, %v", ok, err)
	}

	// The service's side: the same with the batch of feedback.
	want := []string{"1 Success", "2 Rejected"}
	token, got := s.feedback(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("feedback (-want +got):\n%s", diff)
	}
	s.owner(t, 204, "GET", feedbackPath+apiVersion, "") // it is locked
	s.owner(t, 204, "POST", feedbackPath+"/"+token+"/abandon"+apiVersion, "")
	formA(t, s.send(t, "POST", feedbackPath+"/"+token+"/abandon", "", "Authorization", s.as("service")), 412, "DeviceMessageLockLost")
	lapsed, got := s.feedback(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after abandon (-want +got):\n%s", diff)
	}
	s.Clock.Add(61 * time.Second)
	token, got = s.feedback(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the lock lapsed (-want +got):\n%s", diff)
	}
	formA(t, s.send(t, "DELETE", feedbackPath+"/"+lapsed, "", "Authorization", s.as("service")), 412, "DeviceMessageLockLost")
	s.owner(t, 204, "DELETE", feedbackPath+"/"+token+apiVersion, "")
	formA(t, s.send(t, "DELETE", feedbackPath+"/"+token, "", "Authorization", s.as("service")), 412, "DeviceMessageLockLost")
	s.owner(t, 204, "GET", feedbackPath+apiVersion, "")

	s.mail(t, d, "3", "negative")
	s.settle(t, d, "3", iot.Rejected)
	token, _ = s.feedback(t)
	s.owner(t, 204, "DELETE", feedbackPath+"/%22"+token+"%22"+apiVersion+"&reject=", "")
	s.Clock.Add(61 * time.Second)
	s.owner(t, 204, "GET", feedbackPath+apiVersion, "")
}

func TestFeedback_Batch(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for i := range 2 {
		d := s.device(t, fmt.Sprint("d", i))
		for j := range 40 {
			s.mail(t, d, fmt.Sprint(j), "full")
		}
		if _, err := s.Purge(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, one := s.feedback(t)
	_, two := s.feedback(t)
	if len(one) != 64 || len(two) != 16 {
		t.Errorf("batches of %d and %d records, want 64 and 16", len(one), len(two))
	}
}

func TestFeedback_Rights(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, policy := range []string{"registryReadWrite", "device"} {
		formA(t, s.send(t, "GET", feedbackPath, "", "Authorization", s.as(policy)), 401, "IotHubUnauthorizedAccess")
	}
	if a := s.send(t, "PUT", feedbackPath, "", "Authorization", s.as("service")); a.StatusCode != 405 {
		t.Errorf("PUT is answered with %d", a.StatusCode)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-033", "HS-098")
	s := serve(t)
	d, other := s.device(t, "d"), s.device(t, "other")
	for _, ack := range []string{"none", "positive", "negative", "full"} {
		s.mail(t, d, ack, ack)
	}
	s.mail(t, other, "other", "full")
	a := s.owner(t, 200, "DELETE", "/devices/d/commands"+apiVersion, "")
	if diff := cmp.Diff(map[string]any{"deviceId": "d", "moduleId": nil, "totalMessagesPurged": 4.0}, a.document(t)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if n := s.owner(t, 200, "GET", "/devices/d", "").document(t)["cloudToDeviceMessageCount"]; n != 0.0 {
		t.Errorf("%v messages are left", n)
	}
	v, err := s.Visit(t.Context(), s.Credentials(d))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := v.Receive(t.Context(), time.Minute); ok || err != nil {
		t.Errorf("a purged message came: %v, %v", ok, err)
	}
	_, got := s.feedback(t)
	if diff := cmp.Diff([]string{"negative Purged", "full Purged"}, got); diff != "" {
		t.Errorf("feedback (-want +got):\n%s", diff)
	}
	if n := s.owner(t, 200, "DELETE", "/devices/d/commands", "").document(t)["totalMessagesPurged"]; n != 0.0 {
		t.Errorf("an empty queue had %v messages", n)
	}
	formA(t, s.send(t, "DELETE", "/devices/none/commands", "", "Authorization", s.as("service")), 404, "DeviceNotFound")
	s.settle(t, other, "other", iot.Completed)
}

// A full queue refuses its sender, and time empties it.
func TestFeedback_Expired(t *testing.T) {
	conform.Covers(t, "HD-50")
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := hubtest.New(t, hubtest.Options{Dir: dir, Memory: true})
		h := service.New(w.Hub, w.Guard, slog.New(w.Log))
		s := &server{World: w}
		d := s.device(t, "d")
		call := func(method, path string, headers ...string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, "https://"+hubtest.Host+path, nil)
			r.Header.Set("Authorization", s.as("iothubowner"))
			for i := 0; i < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			return rec
		}
		expiry := time.Now().Add(5 * time.Minute).UTC()
		for i := range 50 {
			if rec := call("POST", "/devices/d/messages/deviceBound", "iothub-messageid", fmt.Sprint(i), "iothub-ack", []string{"negative", "positive"}[min(i, 1)], "iothub-expiry", expiry.Format(time.RFC3339)); rec.Code != 204 {
				t.Fatalf("message %d: %d %s", i, rec.Code, rec.Body)
			}
		}
		rec := call("POST", "/devices/d/messages/deviceBound")
		if rec.Code != 403 || !strings.Contains(rec.Body.String(), "ErrorCode:DeviceMaximumQueueDepthExceeded;") {
			t.Errorf("51st message: %d %s", rec.Code, rec.Body)
		}
		time.Sleep(4 * time.Minute)
		if rec := call("GET", feedbackPath); rec.Code != 204 {
			t.Errorf("feedback before the expiry: %d %s", rec.Code, rec.Body)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		rec = call("GET", feedbackPath)
		if rec.Code != 200 {
			t.Fatalf("feedback after the expiry: %d %s", rec.Code, rec.Body)
		}
		want := []record{{"0", iot.FormatTime(expiry.Truncate(time.Second)), "Expired", "Message expired before the device settled it", "d", d.Generation}}
		if diff := cmp.Diff(want, records(t, rec.Body.Bytes())); diff != "" {
			t.Errorf("feedback (-want +got):\n%s", diff)
		}
		w.Close()
	})
}
