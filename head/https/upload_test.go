package https_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	headblob "github.com/vauban-iot/vauban/head/blob"
	"github.com/vauban-iot/vauban/head/https"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/blob"
)

// serveFiles is serve with a store of files on the same port, as in the product.
func serveFiles(t testing.TB) *server {
	t.Helper()
	dir := t.TempDir()
	key := secret.Random(32)
	store, err := blob.Open(blob.Config{Dir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	w := hubtest.New(t, hubtest.Options{Dir: dir, Memory: true, Uploads: func(w *hubtest.World) (*upload.Service, error) {
		return upload.New(upload.Config{Host: hubtest.Host, Key: key, Store: w.Store, Blobs: store, Now: w.Clock.Now})
	}})
	log := slog.New(w.Log)
	blobs, err := headblob.New(headblob.Config{Container: upload.Container, Key: key, Store: store, Guard: w.Guard, Now: w.Clock.Now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	devices := https.New(w.Hub, log)
	s := &server{World: w, Server: httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if blobs.Owns(r.URL.Path) {
			blobs.ServeHTTP(w, r)
			return
		}
		devices.ServeHTTP(w, r)
	}))}
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Server.Close)
	return s
}

// grant is the answer to the first call.
type grant struct {
	CorrelationID string `json:"correlationId"`
	HostName      string `json:"hostName"`
	ContainerName string `json:"containerName"`
	BlobName      string `json:"blobName"`
	SASToken      string `json:"sasToken"`
}

func (s *server) begin(t testing.TB, d registry.Identity, target, name string) grant {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"blobName": name})
	a := s.as(t, d, "POST", target+version, map[string]string{"Content-Type": "application/json"}, string(body)).want(t, 200)
	var g grant
	dec := json.NewDecoder(strings.NewReader(string(a.body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	return g
}

// files takes the notices that wait.
func (s *server) files(t testing.TB) (all []map[string]any) {
	t.Helper()
	for {
		b, err := s.ReadNotices(t.Context(), notice.Files)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Notices) == 0 {
			return all
		}
		if len(b.Notices) != 1 {
			t.Errorf("%d notices of files at once, want one", len(b.Notices))
		}
		var m map[string]any
		if err := json.Unmarshal(b.Notices[0].Document, &m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
		if err := s.SettleNotices(t.Context(), notice.Files, b.LockToken, iot.Completed); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-78")
	s := serveFiles(t)
	d := s.Device(t, iot.ID{Device: "d"})
	m := s.Device(t, iot.ID{Device: "d", Module: "m"})

	encoded := func(g grant) string { return "/" + g.ContainerName + "/" + url.QueryEscape(g.BlobName) } // as .NET writes it
	plain := func(g grant) string { return "/" + g.ContainerName + "/" + g.BlobName }
	put := func(g grant, path, body string) {
		t.Helper()
		s.call(t, nil, "PUT", path+g.SASToken, map[string]string{"x-ms-blob-type": "BlockBlob", "x-ms-version": "2019-12-12"}, body).want(t, 201)
	}
	blocks := func(g grant, path string, bodies ...string) { // as C and Node do it
		t.Helper()
		list := "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>"
		for i, b := range bodies {
			id := fmt.Sprintf("MDAwMD%02d", i)
			s.call(t, nil, "PUT", path+g.SASToken+"&comp=block&blockid="+id, nil, b).want(t, 201)
			list += "<Latest>" + id + "</Latest>"
		}
		s.call(t, nil, "PUT", path+g.SASToken+"&comp=blocklist", nil, list+"</BlockList>").want(t, 201)
	}
	done := func(g grant) string {
		return `{"correlationId":"` + g.CorrelationID + `","isSuccess":true,"statusCode":200,"statusDescription":"ok"}`
	}
	for i, c := range []struct {
		who                 registry.Identity
		files, notification string // {id}: the correlation id
		bodyID              bool
		blob                string
		upload              func(g grant)
	}{
		{d, "/devices/d/files", "/devices/d/files/notifications", true, "d/a.txt", func(g grant) { put(g, plain(g), "hello") }},
		{d, "/devices/d/files/", "/devices/d/files/notifications/", true, "d/a/b.txt", func(g grant) { put(g, encoded(g), "hello") }},
		{d, "/Devices/d/Files", "/devices/d/files/Notifications/{id}", false, "d/c", func(g grant) { blocks(g, plain(g), "he", "llo") }},
		{m, "/devices/d/modules/m/files", "/devices/d/modules/m/files/notifications", true, "d/m/a.txt", func(g grant) { blocks(g, encoded(g), "hello") }},
	} {
		name := strings.TrimPrefix(strings.TrimPrefix(c.blob, "d/"), "m/")
		g := s.begin(t, c.who, c.files, name)
		if g.BlobName != c.blob || g.HostName != hubtest.Host || g.ContainerName != "vauban-uploads" ||
			!regexp.MustCompile(`^\?sv=[0-9-]+&sr=b&sig=[^&]+&se=[^&]+&sp=rw$`).MatchString(g.SASToken) {
			t.Errorf("upload %d is granted as %+v", i, g)
		}
		c.upload(g)
		body := done(g)
		if !c.bodyID {
			body = `{"isSuccess":true,"statusCode":201}`
		}
		target := strings.ReplaceAll(c.notification, "{id}", g.CorrelationID)
		s.as(t, c.who, "POST", target+version, map[string]string{"iothub-name": "hub"}, body).want(t, 204)
		a := s.as(t, c.who, "POST", target+version, nil, body).want(t, 400)
		checkRefusal(t, a, "ExpiredFileUploadCorrelationId")

		notices := s.files(t)
		if len(notices) != 1 {
			t.Fatalf("upload %d: %d notices, want one", i, len(notices))
		}
		for _, member := range []string{"lastUpdatedTime", "enqueuedTimeUtc"} {
			if at, err := time.Parse(time.RFC3339, fmt.Sprint(notices[0][member])); err != nil || time.Since(at).Abs() > time.Minute {
				t.Errorf("upload %d: %s is %v, want now", i, member, notices[0][member])
			}
			delete(notices[0], member)
		}
		want := map[string]any{"deviceId": "d", "blobName": c.blob, "blobUri": "https://" + hubtest.Host + "/vauban-uploads/" + c.blob, "blobSizeInBytes": 5.0}
		if diff := cmp.Diff(want, notices[0]); diff != "" {
			t.Errorf("upload %d: notice (-want +got):\n%s", i, diff)
		}
		if a := s.call(t, nil, "GET", plain(g)+g.SASToken, nil, "").want(t, 200); string(a.body) != "hello" {
			t.Errorf("upload %d reads %q", i, a.body)
		}
	}
	// A failure makes room and tells nobody; .NET's may lack every member but the id.
	g := s.begin(t, d, "/devices/d/files", "failed")
	s.as(t, d, "POST", "/devices/d/files/notifications/"+g.CorrelationID+version, nil, `{"correlationId":"`+g.CorrelationID+`"}`).want(t, 204)
	g = s.begin(t, d, "/devices/d/files", "failed")
	s.as(t, d, "POST", "/devices/d/files/notifications/"+g.CorrelationID+version, nil, "").want(t, 204)
	if n := s.files(t); len(n) > 0 {
		t.Errorf("failures are noticed: %v", n)
	}
}

func TestUpload_Refused(t *testing.T) {
	t.Parallel()
	s := serveFiles(t)
	d, other := s.Device(t, iot.ID{Device: "d"}), s.Device(t, iot.ID{Device: "other"})
	files := "/devices/d/files" + version
	for _, name := range []string{"", "/a", "a/", "a//b", ".", "..", "../other/a", "a/../b", "a/./b", `a\b`, "a\x00", "a\n", "\xff\x00", strings.Repeat("x", 1023), strings.Repeat("a/", 254) + "a"} {
		body, _ := json.Marshal(map[string]string{"blobName": name})
		checkRefusal(t, s.as(t, d, "POST", files, nil, string(body)).want(t, 400), "ArgumentInvalid")
	}
	s.begin(t, d, "/devices/d/files", strings.Repeat("x", 1022))
	checkRefusal(t, s.as(t, d, "POST", files, nil, `{"blobName":"`+strings.Repeat("x", 16<<10)+`"}`).want(t, 413), "MessageTooLarge")
	checkRefusal(t, s.as(t, d, "POST", files, nil, `["blobName"]`).want(t, 400), "IotHubFormatError")
	checkRefusal(t, s.as(t, other, "POST", files, nil, `{"blobName":"a"}`).want(t, 401), "IotHubUnauthorized")

	var gs []grant
	for i := range 9 {
		gs = append(gs, s.begin(t, d, "/devices/d/files", fmt.Sprint(i)))
	}
	checkRefusal(t, s.as(t, d, "POST", files, nil, `{"blobName":"a"}`).want(t, 403), "DeviceMaximumActiveFileUploadLimitExceeded")
	s.begin(t, other, "/devices/other/files", "a")

	end := func(who registry.Identity, id string, status int, code string) {
		t.Helper()
		checkRefusal(t, s.as(t, who, "POST", "/devices/"+who.ID.Device+"/files/notifications"+version, nil, `{"correlationId":"`+id+`","isSuccess":true}`).want(t, status), code)
	}
	end(d, "not one of ours", 400, "InvalidFileUploadCorrelationId")
	end(d, "", 400, "InvalidFileUploadCorrelationId")
	end(d, strings.Repeat("0", 32), 400, "ExpiredFileUploadCorrelationId")
	end(other, gs[0].CorrelationID, 400, "ExpiredFileUploadCorrelationId")
	end(d, gs[0].CorrelationID, 400, "InvalidStorageEndpointOrBlob") // nothing was uploaded
	// A token is for one blob of one device, for an hour.
	foreign := "/vauban-uploads/" + gs[1].BlobName + gs[0].SASToken
	s.call(t, nil, "PUT", foreign, map[string]string{"x-ms-blob-type": "BlockBlob"}, "x").want(t, 403)
	s.Clock.Add(time.Hour + time.Second)
	s.call(t, nil, "PUT", "/vauban-uploads/"+gs[1].BlobName+gs[1].SASToken, map[string]string{"x-ms-blob-type": "BlockBlob"}, "x").want(t, 403)
	end(d, gs[1].CorrelationID, 400, "ExpiredFileUploadCorrelationId")
	s.begin(t, d, "/devices/d/files", "a") // those that expired make room
	if n := s.files(t); len(n) > 0 {
		t.Errorf("refusals are noticed: %v", n)
	}
	if lines := s.Log.Lines(slog.LevelDebug, "sig="); len(lines) > 0 {
		t.Errorf("the log holds a token: %s", lines[0].Text)
	}
}
