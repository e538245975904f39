package api

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/fault"
)

type intelFake struct {
	feeds    []feed.Feed
	accepted bool
	exempt   []feed.Exemption
}

func (f *intelFake) Feeds(context.Context) ([]feed.Feed, error) { return f.feeds, nil }

func (f *intelFake) Feed(_ context.Context, name string) (feed.Feed, error) {
	for _, x := range f.feeds {
		if x.Name == name {
			return x, nil
		}
	}
	return feed.Feed{}, fault.New(fault.NotFound, "feed %s does not exist", name)
}

func (f *intelFake) Put(_ context.Context, c feed.Config) (feed.Feed, error) {
	if err := c.Check(); err != nil {
		return feed.Feed{}, err
	}
	f.feeds = append(f.feeds, feed.Feed{Config: c.Redacted()})
	return f.feeds[len(f.feeds)-1], nil
}

func (f *intelFake) Delete(ctx context.Context, name string) error {
	_, err := f.Feed(ctx, name)
	return err
}

func (f *intelFake) Refresh(ctx context.Context, name string, accept bool) error {
	f.accepted = accept
	_, err := f.Feed(ctx, name)
	return err
}

func (f *intelFake) Exemptions(context.Context) ([]feed.Exemption, error) { return f.exempt, nil }

func (f *intelFake) Exempt(_ context.Context, value, note string) (feed.Exemption, error) {
	text, _, err := feed.ParseExemption(value)
	e := feed.Exemption{Value: text, Note: note}
	if err == nil {
		f.exempt = append(f.exempt, e)
	}
	return e, err
}

func (f *intelFake) Unexempt(_ context.Context, value string) error {
	if len(f.exempt) == 0 || f.exempt[0].Value != value {
		return fault.New(fault.NotFound, "exemption %s does not exist", value)
	}
	f.exempt = nil
	return nil
}

func (f *intelFake) Lookup(value string) (intel.Verdict, error) {
	a, err := netip.ParseAddr(value)
	if err != nil {
		return intel.Verdict{}, fault.New(fault.Invalid, "%q cannot be looked up", value)
	}
	return intel.Verdict{Query: a.String(), Listed: []intel.Listed{}}, nil
}

func TestIntel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if rec := w.ask(t, "GET", "/api/intel/feeds", ""); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"feeds":[]}` {
		t.Errorf("no feeds: %d %s", rec.Code, rec.Body)
	}
	rec := w.ask(t, "PUT", "/api/intel/feeds/fox", `{"format":"threatfox","url":"https://threatfox.example/","headers":{"Auth-Key":"s3cret"}}`)
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"state":{`) || strings.Contains(rec.Body.String(), "s3cret") {
		t.Errorf("put: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "PUT", "/api/intel/feeds/fox", `{"format":"threatfox"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/intel/feeds/fox", `{"name":"box","format":"list","url":"https://x.example"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/intel/feeds/fox", `[]`), 400, "MalformedRequest")
	if rec := w.ask(t, "GET", "/api/intel/feeds/fox", ""); rec.Code != 200 {
		t.Errorf("one: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "GET", "/api/intel/feeds/box", ""), 404, "NotFound")
	refused(t, w.ask(t, "DELETE", "/api/intel/feeds/box", ""), 404, "NotFound")
	refused(t, w.ask(t, "POST", "/api/intel/feeds/box/refresh", ""), 404, "NotFound")
	if rec := w.ask(t, "POST", "/api/intel/feeds/fox/refresh?shrink=accept", ""); rec.Code != 202 || !w.intel.accepted {
		t.Errorf("refresh: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "DELETE", "/api/intel/feeds/fox", ""); rec.Code != 204 {
		t.Errorf("delete: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "GET", "/api/intel/lookup?value=192.0.2.1", ""); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"query":"192.0.2.1","match":null,"listed":[]}` {
		t.Errorf("lookup: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "GET", "/api/intel/lookup?value=.", ""), 400, "InvalidArgument")
	if rec := w.ask(t, "PUT", "/api/intel/exemptions", `{"value":"10.1.2.3/8","note":"ours"}`); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"value":"10.0.0.0/8"`) {
		t.Errorf("exempt: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "PUT", "/api/intel/exemptions", `{"value":"com"}`), 400, "InvalidArgument")
	if rec := w.ask(t, "GET", "/api/intel/exemptions", ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"note":"ours"`) {
		t.Errorf("exemptions: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "DELETE", "/api/intel/exemptions?value=10.0.0.0/8", ""); rec.Code != 204 {
		t.Errorf("end: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "DELETE", "/api/intel/exemptions?value=10.0.0.0/8", ""), 404, "NotFound")
	if log := w.logged.String(); !strings.Contains(log, `what="PUT /api/intel/feeds/{name}" target=intel/feeds/fox outcome=done status=200 format=threatfox`) || strings.Contains(log, "s3cret") {
		t.Errorf("the audit is %s", log)
	}
}
