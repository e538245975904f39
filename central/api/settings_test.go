package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/eventgrid"
	"github.com/vauban-iot/vauban/hub/throttle"
)

const aKey = "c2VjcmV0IG9mIGEgcG9saWN5" // of the one policy

type policyFake struct{ rotated access.Key }

func (f *policyFake) one() Policy {
	return Policy{Name: "service", Service: "hub", Rights: "ServiceConnect", PrimaryKey: aKey, PrimaryConnectionString: "HostName=x;SharedAccessKey=" + aKey}
}

func (f *policyFake) Policies(context.Context) ([]Policy, error) {
	return []Policy{{Name: "service", Service: "hub", Rights: "ServiceConnect"}}, nil
}

func (f *policyFake) Policy(_ context.Context, name string) (Policy, error) {
	if name != "service" {
		return Policy{}, fault.New(fault.NotFound, "there is no shared access policy %q", name)
	}
	return f.one(), nil
}

func (f *policyFake) RotateKey(ctx context.Context, name string, key access.Key) (Policy, error) {
	if key != access.PrimaryKey {
		return Policy{}, fault.New(fault.Invalid, "key must be primary")
	}
	p, err := f.Policy(ctx, name)
	if err == nil {
		f.rotated = key
	}
	return p, err
}

type networkFake struct{ f ipfilter.Filter }

func (f *networkFake) Network(context.Context) (*ipfilter.Filter, error) { return &f.f, nil }

func (f *networkFake) PutNetwork(_ context.Context, rules *ipfilter.Filter) error {
	f.f = *rules
	return nil
}

type throttleFake struct{ l *throttle.Limits }

func (f *throttleFake) Throttles(context.Context) (*throttle.Limits, bool, error) {
	if f.l == nil {
		return &throttle.Limits{}, false, nil
	}
	return f.l, true, nil
}

func (f *throttleFake) PutThrottles(_ context.Context, l *throttle.Limits) error {
	f.l = l
	return nil
}

func (f *throttleFake) DeleteThrottles(context.Context) error {
	f.l = nil
	return nil
}

type subscriptionFake struct {
	all map[string]eventgrid.Subscription
}

func (f *subscriptionFake) Subscriptions(context.Context) (all []eventgrid.Subscription, err error) {
	for _, s := range f.all {
		all = append(all, s)
	}
	return all, nil
}

func (f *subscriptionFake) Subscription(_ context.Context, name string) (eventgrid.Subscription, error) {
	s, ok := f.all[name]
	if !ok {
		return s, fault.New(fault.NotFound, "there is no event subscription %q", name)
	}
	return s, nil
}

func (f *subscriptionFake) Put(_ context.Context, s eventgrid.Subscription) (eventgrid.Subscription, error) {
	if f.all == nil {
		f.all = map[string]eventgrid.Subscription{}
	}
	s.State, s.Code = eventgrid.Awaiting, "the-code"
	f.all[s.Name] = s
	return s, nil
}

func (f *subscriptionFake) Delete(ctx context.Context, name string) error {
	_, err := f.Subscription(ctx, name)
	delete(f.all, name)
	return err
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if rec := w.ask(t, "GET", "/api/policies", ""); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"policies":[{"name":"service","service":"hub","rights":"ServiceConnect"}]}` {
		t.Errorf("the list: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "GET", "/api/policies/service", ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"primaryKey":"`+aKey) {
		t.Errorf("one: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "GET", "/api/policies/nobody", ""), 404, "NotFound")
	refused(t, w.ask(t, "POST", "/api/policies/nobody/rotate", `{"key":"primary"}`), 404, "NotFound")
	refused(t, w.ask(t, "POST", "/api/policies/service/rotate", `{"key":"third"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "POST", "/api/policies/service/rotate", `key`), 400, "MalformedRequest")
	if rec := w.ask(t, "POST", "/api/policies/service/rotate", `{"key":"primary"}`); rec.Code != 200 || w.policies.rotated != access.PrimaryKey {
		t.Errorf("rotate: %d %s", rec.Code, rec.Body)
	}
	log := w.logged.String()
	for _, record := range []string{
		`audit=true who=operator what="POST /api/policies/{name}/rotate" target=policies/service/rotate outcome=done status=200 key=primary`,
		`target=policies/nobody/rotate outcome=refused status=404 key=primary code=NotFound`,
		`target=policies/service/rotate outcome=refused status=400 key=third code=InvalidArgument`,
	} {
		if !strings.Contains(log, record) {
			t.Errorf("no audit record %s in\n%s", record, log)
		}
	}
	if strings.Contains(log, aKey) {
		t.Error("the log holds a key")
	}
}

// Rules that lock the operator out are refused with a warning, and taken when that is meant.
func TestNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := func(from, target, rules string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPut, target, strings.NewReader(rules))
		r.RemoteAddr = from
		r.Header.Set("Authorization", "Bearer "+token)
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		return rec
	}
	const plant = `{"networkRuleSets":{"defaultAction":"Deny","ipRules":[{"filterName":"plant","action":"Allow","ipMask":"10.0.0.0/8"}]}}`
	const plantAndHere = `{"networkRuleSets":{"defaultAction":"Deny","ipRules":[{"filterName":"plant","action":"Allow","ipMask":"10.0.0.0/8"},` +
		`{"filterName":"here","action":"Allow","ipMask":"127.0.0.1"},{"filterName":"here, too","action":"Allow","ipMask":"::1"}]}}`
	const devices = `{"ipFilterRules":[{"filterName":"no devices","action":"Reject","ipMask":"0.0.0.0/0","target":"deviceApi"}]}`
	for _, c := range []struct {
		condition, from, query, rules string
		status                        int
		want                          string
	}{
		{"this machine locked out", "10.1.1.1:5", "", plant, 400, "127.0.0.1 may not call the service API"},
		{"the caller locked out", "192.0.2.7:5", "", plantAndHere, 400, "192.0.2.7 may not call the service API"},
		{"nobody locked out", "10.1.1.1:5", "", plantAndHere, 200, `"ipMask":"127.0.0.1"`},
		{"rules for devices alone", "192.0.2.7:5", "", devices, 200, `"target":"deviceApi"`},
		{"locked out on purpose", "192.0.2.7:5", "?lockout=accept", plant, 200, `"warnings":["127.0.0.1 may not`},
		{"rules that cannot be read", "127.0.0.1:5", "?lockout=accept", `{"ipFilterRules":[{"filterName":"x","action":"Accept","ipMask":"10.0.0.0/99"}]}`, 400, "ipMask must be"},
	} {
		before := w.network.f
		rec := ask(c.from, "/api/network"+c.query, c.rules)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s: %d %s, want %d with %s", c.condition, rec.Code, rec.Body, c.status, c.want)
		}
		if after, err := json.Marshal(w.network.f.Config); err != nil || c.status != 200 && string(after) != string(must(json.Marshal(before.Config))) {
			t.Errorf("%s: the rules changed to %s", c.condition, after)
		}
	}
	if rec := w.ask(t, "GET", "/api/network", ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"warnings"`) || !strings.Contains(rec.Body.String(), `"defaultAction":"Deny"`) {
		t.Errorf("what is in force: %d %s", rec.Code, rec.Body)
	}
	if rec := ask("192.0.2.7:5", "/api/network", `{}`); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != "{}" {
		t.Errorf("no filter: %d %s", rec.Code, rec.Body)
	}
	if log := w.logged.String(); !strings.Contains(log, `what="PUT /api/network" target=network outcome=done status=200 rules="{\"ipFilterRules\"`) || !strings.Contains(log, `outcome=refused status=400`) {
		t.Errorf("audit records are missing in\n%s", log)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestThrottles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"GET", "", 200, `"source":"file"`},
		{"GET", "", 200, `"telemetry":"off"`},
		{"PUT", `{"tier":"S1","units":2,"limits":{"twinReads":"5/s"}}`, 200, `"twinReads":"5/s"`},
		{"GET", "", 200, `"registry":"200/min"`},
		{"GET", "", 200, `"source":"api"`},
		{"PUT", `{"limits":{"tea":"5/s"}}`, 400, "there is no limit"},
		{"PUT", strings.Repeat(" ", maxSettings+1), 413, "may have"},
		{"GET", "", 200, `"tier":"S1","units":2`},
		{"DELETE", "", 200, `"source":"file"`},
	} {
		if rec := w.ask(t, c.method, "/api/throttles", c.body); rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s %.40q: %d %s, want %d with %s", c.method, c.body, rec.Code, rec.Body, c.status, c.want)
		}
	}
	log := w.logged.String()
	for _, record := range []string{`what="PUT /api/throttles" target=throttles outcome=done status=200 limits=`, `what="DELETE /api/throttles" target=throttles outcome=done`} {
		if !strings.Contains(log, record) {
			t.Errorf("no audit record %s in\n%s", record, log)
		}
	}
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const body = `{"endpointUrl":"https://erp.example/iot","header":"Authorization: Basic c2VjcmV0"}`
	rec := w.ask(t, "PUT", "/api/event-subscriptions/erp", body)
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"provisioningState":"AwaitingManualAction"`) {
		t.Errorf("put: %d %s", rec.Code, rec.Body)
	}
	if w.subscribed.all["erp"].Header != "Authorization: Basic c2VjcmV0" {
		t.Errorf("the store has %+v", w.subscribed.all)
	}
	for _, target := range []string{"/api/event-subscriptions", "/api/event-subscriptions/erp"} {
		rec := w.ask(t, "GET", target, "")
		if text := rec.Body.String(); rec.Code != 200 || !strings.Contains(text, "erp.example") || strings.Contains(text, "c2VjcmV0") || strings.Contains(text, "the-code") {
			t.Errorf("%s: %d %s, want the subscription without its secrets", target, rec.Code, text)
		}
	}
	refused(t, w.ask(t, "PUT", "/api/event-subscriptions/erp", `{"name":"crm","endpointUrl":"https://x"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/event-subscriptions/erp", `[]`), 400, "MalformedRequest")
	refused(t, w.ask(t, "GET", "/api/event-subscriptions/crm", ""), 404, "NotFound")
	refused(t, w.ask(t, "DELETE", "/api/event-subscriptions/crm", ""), 404, "NotFound")
	if rec := w.ask(t, "DELETE", "/api/event-subscriptions/erp", ""); rec.Code != 204 || len(w.subscribed.all) != 0 {
		t.Errorf("delete: %d %s", rec.Code, rec.Body)
	}
	if log := w.logged.String(); strings.Contains(log, "c2VjcmV0") || !strings.Contains(log, `what="DELETE /api/event-subscriptions/{name}" target=event-subscriptions/erp outcome=done status=204`) {
		t.Errorf("the log is\n%s", log)
	}
}

// No change without a record: every route but GETs makes one.
func TestAudit_EveryChange(t *testing.T) {
	t.Parallel()
	for _, rt := range routes {
		w := newWorld(t)
		target := strings.NewReplacer("{name}", "some-name", "{endpoint}", "e", "{sequence}", "1").Replace(rt.path)
		if rt.path == "/api/messages" {
			continue // it does not end
		}
		w.ask(t, rt.method, target, "{}")
		if got, want := strings.Count(w.logged.String(), "audit=true"), 1; rt.method == "GET" {
			if got != 0 {
				t.Errorf("%s %s: %d audit records of a read", rt.method, rt.path, got)
			}
		} else if got != want || !strings.Contains(w.logged.String(), `what="`+rt.method+" "+rt.path+`"`) {
			t.Errorf("%s %s: %d audit records, want one:\n%s", rt.method, rt.path, got, w.logged.String())
		}
	}
}
