package dps

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Document is the JSON of one resource with its ETag.
type Document struct {
	JSON []byte
	ETag iot.ETag
}

// Enrollment reads an enrollment. It holds no keys.
func (s *Service) Enrollment(ctx context.Context, group bool, name string) (Document, error) {
	e, err := s.cfg.Store.Enrollment(ctx, group, name)
	if err != nil {
		return Document{}, err
	}
	return s.document(ctx, e)
}

func (s *Service) document(ctx context.Context, e Enrollment) (Document, error) {
	j, err := s.withState(ctx, e)
	if err != nil {
		return Document{}, err
	}
	return Document{marshal(j), e.ETag}, nil
}

func (s *Service) withState(ctx context.Context, e Enrollment) (*enrollmentJSON, error) {
	var state *stateJSON
	if !e.Group {
		reg, err := s.cfg.Store.Registration(ctx, e.Name)
		switch {
		case err == nil:
			state = stateOf(reg, nil)
		case !fault.Is(err, fault.NotFound):
			return nil, err
		}
	}
	return render(e, state)
}

// Attestation reads how an enrollment proves its devices, with the keys.
func (s *Service) Attestation(ctx context.Context, group bool, name string) ([]byte, error) {
	e, err := s.cfg.Store.Enrollment(ctx, group, name)
	if err != nil {
		return nil, err
	}
	a, err := renderAttestation(e)
	if err != nil {
		return nil, err
	}
	return marshal(a), nil
}

// PutEnrollment creates an enrollment or replaces it. Keys and certificates that body leaves out are kept;
// missing keys of a new one are made. With a match that the current one, or its absence, does not
// satisfy, it is fault.PreconditionFailed.
func (s *Service) PutEnrollment(ctx context.Context, group bool, name string, body []byte, match *iot.Match) (Document, error) {
	at, err := s.place(ctx)
	if err != nil {
		return Document{}, err
	}
	d, err := parseEnrollment(group, name, body, at)
	if err != nil {
		return Document{}, err
	}
	e, err := s.put(ctx, d, func(now *Enrollment) error {
		if now == nil {
			if match != nil {
				return fault.New(fault.PreconditionFailed, "the ETag does not match: there is no %s", d.Name)
			}
			return nil
		}
		return match.Check(now.ETag)
	})
	if err != nil {
		return Document{}, err
	}
	return s.document(ctx, e)
}

// put writes a draft when check, which sees the current enrollment or nil, agrees.
func (s *Service) put(ctx context.Context, d draft, check func(now *Enrollment) error) (Enrollment, error) {
	if d.Group {
		s.writes.Lock()
		defer s.writes.Unlock()
		if err := s.checkGroups(ctx, d); err != nil {
			return Enrollment{}, err
		}
		defer s.groups.changed()
	}
	tag, at := iot.ETag(nonce.New()), s.now()
	spare := [2]secret.Secret{secret.Random(freshKey), secret.Random(freshKey)}
	return s.cfg.Store.PutEnrollment(ctx, d.Group, d.Name, func(now *Enrollment) (Enrollment, error) {
		if err := check(now); err != nil {
			return Enrollment{}, err
		}
		next, err := d.over(now, spare)
		if err != nil {
			return next, err
		}
		next.ETag, next.Updated = tag, at
		if now == nil {
			next.Created = at
		}
		return next, nil
	})
}

// checkGroups refuses a CA that another group holds, between which nothing could decide, and
// more groups than a device's authentication should try.
func (s *Service) checkGroups(ctx context.Context, d draft) error {
	groups, err := s.readGroups(ctx)
	if err != nil {
		return err
	}
	var cas []*x509.Certificate
	for _, c := range d.certs {
		if c.text != "" {
			ca, err := parseCertificate(c.text)
			if err != nil {
				return err
			}
			cas = append(cas, ca)
		}
	}
	others := 0
	for _, g := range groups {
		if same(g.Name, d.Name) {
			continue
		}
		if shareCA(cas, d.Attestation, g) {
			return fault.New(fault.AlreadyExists, "enrollment group %q has this CA", g.Name)
		}
		if g.Attestation.Type == d.Attestation.Type {
			others++
		}
	}
	if others >= maxGroups {
		return fault.New(fault.Invalid, "there are %d groups with attestation by %s, which is the limit", others, d.Attestation.Type)
	}
	return nil
}

// DeleteEnrollment removes an enrollment. The device in the hub and the registration record stay (dps §9.4).
func (s *Service) DeleteEnrollment(ctx context.Context, group bool, name string, match *iot.Match) error {
	if group {
		s.writes.Lock()
		defer s.writes.Unlock()
		defer s.groups.changed()
	}
	return s.cfg.Store.DeleteEnrollment(ctx, group, name, func(e Enrollment) error { return match.Check(e.ETag) })
}

// Bulk creates, changes or deletes up to ten enrollments. Rows fail one by one, and the answer lists
// the ones that did (dps §10.2).
func (s *Service) Bulk(ctx context.Context, group bool, body []byte) ([]byte, error) {
	var req struct {
		Mode        string          `json:"mode"`
		Individuals []enrollmentDoc `json:"enrollments"`
		Groups      []enrollmentDoc `json:"enrollmentGroups"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fault.New(fault.Malformed, "the body is not the JSON of a bulk operation: %v", err)
	}
	rows, word := req.Individuals, "enrollments"
	if group {
		rows, word = req.Groups, "enrollmentGroups"
	}
	if len(rows) == 0 || len(rows) > maxEntries {
		return nil, fault.New(fault.Invalid, "%s must have 1 to %d entries", word, maxEntries)
	}
	mode := strings.ToLower(req.Mode) // npm and .NET spell the third one differently
	switch mode {
	case "create", "update", "updateifmatchetag", "delete":
	default:
		return nil, fault.New(fault.Invalid, "mode must be create, update, updateIfMatchETag or delete")
	}
	type rowError struct {
		RegistrationID string `json:"registrationId,omitempty"`
		GroupID        string `json:"enrollmentGroupId,omitempty"`
		Code           int    `json:"errorCode"`
		Status         string `json:"errorStatus"`
	}
	result := struct {
		Successful bool       `json:"isSuccessful"`
		Errors     []rowError `json:"errors"`
	}{true, []rowError{}}
	for i := range rows {
		err := s.bulkRow(ctx, group, mode, &rows[i])
		if err == nil {
			continue
		}
		result.Successful = false
		e := rowError{Code: codeOf(fault.KindOf(err)), Status: fault.Public(err)}
		if group {
			e.GroupID = rows[i].GroupID
		} else {
			e.RegistrationID = rows[i].RegistrationID
		}
		if fault.Is(err, fault.Internal) {
			s.log.ErrorContext(ctx, "bulk operation failed", "mode", mode, "registration", e.RegistrationID, "group", e.GroupID, "err", err)
		}
		result.Errors = append(result.Errors, e)
	}
	return marshal(result), nil
}

func (s *Service) bulkRow(ctx context.Context, group bool, mode string, doc *enrollmentDoc) error {
	if mode == "delete" {
		name := doc.RegistrationID
		if group {
			name = doc.GroupID
		}
		return s.DeleteEnrollment(ctx, group, name, nil)
	}
	at, err := s.place(ctx)
	if err != nil {
		return err
	}
	d, err := doc.check(group, "", at)
	if err != nil {
		return err
	}
	if mode == "updateifmatchetag" && d.match == "" {
		return fault.New(fault.Invalid, "etag is missing")
	}
	_, err = s.put(ctx, d, func(now *Enrollment) error { return d.allowed(mode, now) })
	return err
}

// allowed reports whether a row of a bulk operation or an import may do what its mode says.
func (d *draft) allowed(mode string, now *Enrollment) error {
	switch {
	case mode == "create" && now != nil:
		return fault.New(fault.AlreadyExists, "%s exists", now.Name)
	case mode == "create", mode == "createorupdate":
		return nil
	case now == nil:
		return fault.New(fault.NotFound, "there is no %s", d.Name)
	case mode == "update":
		return nil
	}
	return iot.ParseMatch(string(d.match)).Check(now.ETag)
}

// Registration reads the record of a registered device.
func (s *Service) Registration(ctx context.Context, id string) (Document, error) {
	reg, err := s.cfg.Store.Registration(ctx, id)
	if err != nil {
		return Document{}, err
	}
	return Document{marshal(stateOf(reg, nil)), reg.ETag}, nil
}

// DeleteRegistration forgets that a device registered; its next registration counts as its first.
func (s *Service) DeleteRegistration(ctx context.Context, id string, match *iot.Match) error {
	return s.cfg.Store.DeleteRegistration(ctx, id, func(r Registration) error { return match.Check(r.ETag) })
}

// Page asks for part of a list.
type Page struct {
	Continuation string // of the page before; empty: from the start
	Max          int    // zero: 100; more than 1000 are not given at once
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// List is one page of a query.
type List struct {
	JSON         []byte // an array
	Continuation string // empty on the last page
}

// Enrollments lists individual enrollments or groups in order of their names.
func (s *Service) Enrollments(ctx context.Context, group bool, query []byte, p Page) (List, error) {
	return page(query, p, func(after string, limit int) ([]any, []string, error) {
		es, err := s.cfg.Store.Enrollments(ctx, group, after, limit)
		if err != nil {
			return nil, nil, err
		}
		items, names := make([]any, len(es)), make([]string, len(es))
		for i, e := range es {
			if items[i], err = s.withState(ctx, e); err != nil {
				return nil, nil, err
			}
			names[i] = e.Name
		}
		return items, names, nil
	})
}

// Registrations lists the records of the devices that a group admitted. A deleted group's are still there.
func (s *Service) Registrations(ctx context.Context, group string, query []byte, p Page) (List, error) {
	return page(query, p, func(after string, limit int) ([]any, []string, error) {
		rs, err := s.cfg.Store.Registrations(ctx, group, after, limit)
		if err != nil {
			return nil, nil, err
		}
		items, names := make([]any, len(rs)), make([]string, len(rs))
		for i, r := range rs {
			items[i], names[i] = stateOf(r, nil), r.ID
		}
		return items, names, nil
	})
}

// everything is the one query there is; what it cannot say must not be answered with everything.
var everything = regexp.MustCompile(`(?i)^\s*(select\s+\*(\s+from\s+\w+)?\s*;?\s*)?$`)

func page(query []byte, p Page, read func(after string, limit int) ([]any, []string, error)) (List, error) {
	if len(strings.TrimSpace(string(query))) > 0 {
		var q struct {
			Query string `json:"query"`
		}
		if err := json.Unmarshal(query, &q); err != nil {
			return List{}, fault.Wrap(fault.Malformed, err, "the body is not the JSON of a query")
		}
		if !everything.MatchString(q.Query) {
			return List{}, fault.New(fault.Invalid, "the query is not supported; it may be SELECT *")
		}
	}
	limit := p.Max
	switch {
	case limit < 0:
		return List{}, fault.New(fault.Invalid, "the page size must be positive")
	case limit == 0:
		limit = defaultPage
	case limit > maxPage:
		limit = maxPage
	}
	after := ""
	if p.Continuation != "" {
		b, err := base64.RawURLEncoding.DecodeString(p.Continuation)
		if err != nil || len(b) > maxName || !plain(string(b)) {
			return List{}, fault.New(fault.Invalid, "the continuation is none of ours")
		}
		after = string(b)
	}
	items, names, err := read(after, limit+1) // one more tells whether there is a next page
	if err != nil {
		return List{}, fmt.Errorf("query: %w", err)
	}
	l := List{}
	if len(items) > limit {
		items = items[:limit]
		l.Continuation = base64.RawURLEncoding.EncodeToString([]byte(fold(names[limit-1])))
	}
	if items == nil {
		items = []any{}
	}
	l.JSON = marshal(items)
	return l, nil
}
