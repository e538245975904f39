package storagetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

func enrollment(group bool, name string) dps.Enrollment {
	return dps.Enrollment{
		Name: name, Group: group, ETag: "e1", DeviceID: "Lamp'1", Enabled: true,
		Attestation: dps.Attestation{Type: "symmetricKey", PrimaryKey: secret.New([]byte("p-" + name)), SecondaryKey: secret.New([]byte("s")),
			PrimaryCertificate: "-----BEGIN CERTIFICATE-----\nAA\n", SecondaryCertificate: "x", PrimaryReference: "one", SecondaryReference: "two",
			EndorsementKey: []byte{0, 255}, StorageRootKey: []byte{1}},
		Webhook: dps.Webhook{URL: "https://x", Version: "1"}, Issuing: "devices",
		Edge: true, Twin: dps.InitialTwin{Tags: json.RawMessage(verbatim), Desired: json.RawMessage(`{ "a": 1.0 }`)},
		Reprovision: dps.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true},
		Allocation:  "hashed", HubName: "Hub", Hubs: []string{"a", "b"}, Info: json.RawMessage(verbatim),
		Created: kept(Start), Updated: kept(Start.Add(time.Second)),
	}
}

// Enrollments is what every dps.Store promises about enrollments.
func Enrollments(t *testing.T, open Open) {
	put := func(t *testing.T, s Store, e dps.Enrollment) dps.Enrollment {
		t.Helper()
		return must(s.PutEnrollment(t.Context(), e.Group, e.Name, func(*dps.Enrollment) (dps.Enrollment, error) { return e, nil }))(t)
	}

	t.Run("what is put comes back", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for _, group := range []bool{false, true} {
			want := enrollment(group, "Lamp-1")
			same(t, "returned", put(t, s, want), want)
			same(t, "stored", must(s.Enrollment(ctx, group, "Lamp-1"))(t), want)
		}
		bare := dps.Enrollment{Name: "bare", Attestation: dps.Attestation{Type: "x509"}}
		put(t, s, bare)
		same(t, "bare", must(s.Enrollment(ctx, false, "bare"))(t), bare)
		if e := must(s.Enrollment(ctx, false, "bare"))(t); e.Info != nil || e.Twin.Tags != nil || e.Twin.Desired != nil {
			t.Errorf("absent JSON came back as %q, %q, %q", e.Info, e.Twin.Tags, e.Twin.Desired)
		}
	})

	t.Run("names compare without case and keep their spelling", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		put(t, s, enrollment(false, "Lamp-É"))
		same(t, "found", must(s.Enrollment(ctx, false, "LAMP-é"))(t), enrollment(false, "Lamp-É"))
		_, err := s.Enrollment(ctx, true, "Lamp-É")
		wantKind(t, "a group of that name", err, fault.NotFound)

		respelled := enrollment(false, "LAMP-É")
		same(t, "returned", must(s.PutEnrollment(ctx, false, "lamp-é", func(now *dps.Enrollment) (dps.Enrollment, error) {
			if now == nil || now.Name != "Lamp-É" {
				t.Errorf("change saw %v, want the one in other case", now)
			}
			return respelled, nil
		}))(t), respelled)
		same(t, "respelled", must(s.Enrollment(ctx, false, "Lamp-É"))(t), respelled)
		if all := must(s.Enrollments(ctx, false, "", 10))(t); len(all) != 1 {
			t.Errorf("got %d enrollments, want 1", len(all))
		}
		if _, err := s.PutEnrollment(ctx, false, "a", func(*dps.Enrollment) (dps.Enrollment, error) { return enrollment(false, "b"), nil }); err == nil {
			t.Error("a change put another name than it was asked about")
		}
	})

	t.Run("a refused change leaves everything", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		want := enrollment(true, "g")
		put(t, s, want)
		_, err := s.PutEnrollment(ctx, true, "g", func(now *dps.Enrollment) (dps.Enrollment, error) {
			same(t, "current", *now, want)
			return enrollment(true, "g"), errNo
		})
		wantNo(t, "put", err)
		_, err = s.PutEnrollment(ctx, true, "new", func(now *dps.Enrollment) (dps.Enrollment, error) {
			if now != nil {
				t.Errorf("a new enrollment has a current one: %v", now)
			}
			return enrollment(true, "new"), errNo
		})
		wantNo(t, "put", err)
		wantNo(t, "delete", s.DeleteEnrollment(ctx, true, "g", func(dps.Enrollment) error { return errNo }))
		same(t, "all", must(s.Enrollments(ctx, true, "", 10))(t), []dps.Enrollment{want})
	})

	t.Run("delete", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		put(t, s, enrollment(true, "Same"))
		put(t, s, enrollment(false, "Same"))
		ok(t, s.DeleteEnrollment(ctx, true, "SAME", func(e dps.Enrollment) error {
			same(t, "checked", e, enrollment(true, "Same"))
			return nil
		}))
		wantKind(t, "delete again", s.DeleteEnrollment(ctx, true, "same", func(dps.Enrollment) error { return nil }), fault.NotFound)
		same(t, "individual", must(s.Enrollment(ctx, false, "same"))(t), enrollment(false, "Same"))
	})

	t.Run("lists are pages in order of the folded name", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var want []string
		for i := range 12 {
			name := fmt.Sprintf("dev-%02d", i)
			if i%2 == 0 {
				name = strings.ToUpper(name)
			}
			want = append(want, name)
			put(t, s, enrollment(false, name))
		}
		for _, name := range []string{"%", "_", "'", "z", "É"} {
			want = append(want, name)
			put(t, s, enrollment(false, name))
		}
		put(t, s, enrollment(true, "group"))
		slices.SortFunc(want, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page := must(s.Enrollments(ctx, false, after, 5))(t)
			for _, e := range page {
				same(t, "listed", e, enrollment(false, e.Name))
				got = append(got, e.Name)
			}
			if len(page) < 5 {
				break
			}
		}
		same(t, "names", got, want)
	})

	t.Run("of many creators one wins", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		parallel(t, 30, func(int) error {
			_, err := s.PutEnrollment(ctx, false, "n", func(now *dps.Enrollment) (dps.Enrollment, error) {
				if now != nil {
					e := *now
					e.ETag += "x"
					return e, nil
				}
				return dps.Enrollment{Name: "n", ETag: "x"}, nil
			})
			return err
		})
		if e := must(s.Enrollment(ctx, false, "n"))(t); len(e.ETag) != 30 {
			t.Errorf("%d of 30 changes are there", len(e.ETag))
		}
	})
}

// Registrations is what every dps.Store promises about registrations.
func Registrations(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	reg := func(id, group string) dps.Registration {
		return dps.Registration{ID: id, Group: group, DeviceID: id, Hub: "hub", Status: "assigned", Substatus: "initialAssignment",
			ErrorCode: 400209, Error: "☂", Payload: json.RawMessage(verbatim), ETag: iot.ETag("e-" + id), Created: kept(Start), Updated: kept(Start.Add(time.Minute))}
	}
	put := func(r dps.Registration) {
		t.Helper()
		same(t, "returned", must(s.PutRegistration(ctx, r.ID, func(*dps.Registration) (dps.Registration, error) { return r, nil }))(t), r)
	}
	_, err := s.Registration(ctx, "a")
	wantKind(t, "a missing registration", err, fault.NotFound)
	for _, id := range []string{"b", "A", "C", "%", "d_"} {
		put(reg(id, "Group"))
	}
	put(reg("solo", ""))
	put(reg("other", "group2"))
	same(t, "one", must(s.Registration(ctx, "a"))(t), reg("A", "Group"))
	_, err = s.PutRegistration(ctx, "a", func(now *dps.Registration) (dps.Registration, error) {
		if now == nil || now.ID != "A" {
			t.Errorf("change saw %v, want the one in other case", now)
		}
		return dps.Registration{ID: "a"}, errNo
	})
	wantNo(t, "put", err)
	wantNo(t, "delete", s.DeleteRegistration(ctx, "a", func(dps.Registration) error { return errNo }))
	if _, err := s.PutRegistration(ctx, "x", func(*dps.Registration) (dps.Registration, error) { return reg("y", ""), nil }); err == nil {
		t.Error("a change put another id than it was asked about")
	}

	same(t, "page 1", must(s.Registrations(ctx, "GROUP", "", 2))(t), []dps.Registration{reg("%", "Group"), reg("A", "Group")})
	same(t, "page 2", must(s.Registrations(ctx, "group", "A", 2))(t), []dps.Registration{reg("b", "Group"), reg("C", "Group")})
	same(t, "page 3", must(s.Registrations(ctx, "group", "c", 2))(t), []dps.Registration{reg("d_", "Group")})
	same(t, "without group", must(s.Registrations(ctx, "", "", 9))(t), []dps.Registration{reg("solo", "")})

	ok(t, s.DeleteRegistration(ctx, "a", func(r dps.Registration) error {
		same(t, "checked", r, reg("A", "Group"))
		return nil
	}))
	wantKind(t, "delete again", s.DeleteRegistration(ctx, "A", func(dps.Registration) error { return nil }), fault.NotFound)

	parallel(t, 30, func(int) error {
		_, err := s.PutRegistration(ctx, "race", func(now *dps.Registration) (dps.Registration, error) {
			r := dps.Registration{ID: "race"}
			if now != nil {
				r = *now
			}
			r.ErrorCode++
			return r, nil
		})
		return err
	})
	if r := must(s.Registration(ctx, "race"))(t); r.ErrorCode != 30 {
		t.Errorf("%d of 30 changes are there", r.ErrorCode)
	}
}

// EnrollmentBatches is what every dps.Store promises about many enrollments at once.
func EnrollmentBatches(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	must(s.PutEnrollment(ctx, false, "Dev-007", func(*dps.Enrollment) (dps.Enrollment, error) { return enrollment(false, "Dev-007"), nil }))(t)
	must(s.PutEnrollment(ctx, true, "dev-008", func(*dps.Enrollment) (dps.Enrollment, error) { return enrollment(true, "dev-008"), nil }))(t)
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("dev-%03d", 299-i))
	}
	errs := must(s.PutEnrollments(ctx, false, names, func(i int, now *dps.Enrollment) (dps.Enrollment, error) {
		switch {
		case names[i] == "dev-007":
			if now == nil || now.Name != "Dev-007" || now.Group {
				t.Errorf("change saw %v, want the one that stands", now)
			}
			e := *now
			e.Enabled = false
			return e, nil
		case now != nil:
			t.Errorf("%s: change saw %v", names[i], now)
		case names[i] == "dev-100":
			return enrollment(false, names[i]), errNo
		case names[i] == "dev-101":
			return enrollment(false, "another"), nil
		}
		return enrollment(false, names[i]), nil
	}))(t)
	for i, err := range errs {
		switch names[i] {
		case "dev-100":
			wantNo(t, "dev-100", err)
		case "dev-101":
			if err == nil {
				t.Error("a change put another name than it was asked about")
			}
		default:
			ok(t, err)
		}
	}
	all := must(s.Enrollments(ctx, false, "", 400))(t)
	if len(all) != 298 {
		t.Errorf("%d enrollments, want 298", len(all))
	}
	for _, e := range all {
		want := enrollment(false, e.Name)
		if strings.EqualFold(e.Name, "dev-007") {
			want.Enabled = false
			if e.Name != "Dev-007" {
				t.Errorf("it was respelled to %s", e.Name)
			}
		}
		same(t, "stored", e, want)
	}
	same(t, "groups", must(s.Enrollments(ctx, true, "", 10))(t), []dps.Enrollment{enrollment(true, "dev-008")})
	if _, err := s.PutEnrollments(ctx, false, []string{"a", "A"}, func(int, *dps.Enrollment) (dps.Enrollment, error) { return dps.Enrollment{}, nil }); err == nil {
		t.Error("one name twice was taken")
	}
	same(t, "none", len(must(s.PutEnrollments(ctx, false, nil, nil))(t)), 0)

	parallel(t, 8, func(int) error {
		_, err := s.PutEnrollments(ctx, false, []string{"r1", "r2", "r3"}, func(i int, now *dps.Enrollment) (dps.Enrollment, error) {
			if now == nil {
				return dps.Enrollment{Name: fmt.Sprintf("r%d", i+1), ETag: "x"}, nil
			}
			e := *now
			e.ETag += "x"
			return e, nil
		})
		return err
	})
	if e := must(s.Enrollment(ctx, false, "r2"))(t); len(e.ETag) != 8 {
		t.Errorf("%d of 8 changes are there", len(e.ETag))
	}
}

// CAs is what every dps.Store promises about CAs.
func CAs(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	ca := func(name string) dps.CA {
		return dps.CA{Name: name, Certificate: "-----BEGIN", Verified: true, Code: "c", CodeExpires: kept(Start), ETag: "e", Created: kept(Start), Updated: kept(Start.Add(time.Second))}
	}
	put := func(c dps.CA) {
		t.Helper()
		same(t, "returned", must(s.PutCA(ctx, c.Name, func(*dps.CA) (dps.CA, error) { return c, nil }))(t), c)
	}
	same(t, "none", len(must(s.CAs(ctx))(t)), 0)
	put(ca("b"))
	put(ca("a"))
	put(ca("A"))
	put(dps.CA{Name: "bare"})
	same(t, "all", must(s.CAs(ctx))(t), []dps.CA{ca("A"), ca("a"), ca("b"), {Name: "bare"}})
	_, err := s.PutCA(ctx, "a", func(now *dps.CA) (dps.CA, error) {
		same(t, "current", *now, ca("a"))
		return *now, errNo
	})
	wantNo(t, "put", err)
	if _, err := s.PutCA(ctx, "a", func(*dps.CA) (dps.CA, error) { return ca("A"), nil }); err == nil {
		t.Error("a change put another name than it was asked about")
	}
	changed := ca("b")
	changed.Verified, changed.Code, changed.CodeExpires = false, "", time.Time{}
	put(changed)
	wantNo(t, "delete", s.DeleteCA(ctx, "a", func(c dps.CA) error {
		same(t, "checked", c, ca("a"))
		return errNo
	}))
	ok(t, s.DeleteCA(ctx, "a", func(dps.CA) error { return nil }))
	wantKind(t, "delete again", s.DeleteCA(ctx, "a", func(dps.CA) error { return nil }), fault.NotFound)
	same(t, "left", must(s.CAs(ctx))(t), []dps.CA{ca("A"), changed, {Name: "bare"}})
}

// LinkedHubs is what every dps.Store promises about linked hubs.
func LinkedHubs(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	hub := func(host string) dps.LinkedHub {
		return dps.LinkedHub{Host: host, ConnectionString: secret.New([]byte("HostName=" + host)), Address: "10.0.0.1:443", Authority: "-----BEGIN",
			Weight: 7, Excluded: true, Networks: []string{"10.0.0.0/8", "fd00::/8"}, Created: kept(Start), Updated: kept(Start.Add(time.Second))}
	}
	put := func(asked string, h dps.LinkedHub) {
		t.Helper()
		same(t, "returned", must(s.PutLinkedHub(ctx, asked, func(*dps.LinkedHub) (dps.LinkedHub, error) { return h, nil }))(t), h)
	}
	put("b.example", hub("b.example"))
	put("A.example", hub("A.example"))
	own := dps.LinkedHub{Host: "own", Weight: 1}
	put("own", own)
	same(t, "all", must(s.LinkedHubs(ctx))(t), []dps.LinkedHub{hub("A.example"), hub("b.example"), own})
	respelled := hub("a.EXAMPLE")
	put("a.example", respelled)
	_, err := s.PutLinkedHub(ctx, "A.EXAMPLE", func(now *dps.LinkedHub) (dps.LinkedHub, error) {
		same(t, "current", *now, respelled)
		return *now, errNo
	})
	wantNo(t, "put", err)
	if _, err := s.PutLinkedHub(ctx, "own", func(*dps.LinkedHub) (dps.LinkedHub, error) { return hub("other"), nil }); err == nil {
		t.Error("a change put another host than it was asked about")
	}
	ok(t, s.DeleteLinkedHub(ctx, "A.Example"))
	wantKind(t, "delete again", s.DeleteLinkedHub(ctx, "a.example"), fault.NotFound)
	same(t, "left", must(s.LinkedHubs(ctx))(t), []dps.LinkedHub{hub("b.example"), own})
}
