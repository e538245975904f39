package dps

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Import is part of an import of enrollments.
type Import struct {
	Group bool
	// Mode is create, which refuses those that exist, update, which refuses those that do not, or createOrUpdate.
	Mode   string
	DryRun bool              // nothing is written; the outcome is what it would have been
	Rows   []json.RawMessage // enrollments as the service API takes them, at most [MaxImport]
}

// MaxImport is how many rows may be imported at once: they are one transaction.
const MaxImport = 1000

// Imported is the outcome of an import.
type Imported struct {
	Created int             `json:"created"`
	Updated int             `json:"updated"`
	Errors  []ImportedError `json:"errors"`
}

// ImportedError says why a row was left out.
type ImportedError struct {
	Row     int    `json:"row"` // from 0
	Name    string `json:"name,omitempty"`
	Code    int    `json:"errorCode"`
	Message string `json:"message"`
}

// errDry ends the change of a row that is not to be written.
var errDry = fault.New(fault.Invalid, "dry run")

// Import creates or changes many enrollments. Rows are refused one by one, and the others written.
func (s *Service) Import(ctx context.Context, in Import) (out Imported, err error) {
	out.Errors = []ImportedError{}
	mode := strings.ToLower(in.Mode)
	switch {
	case len(in.Rows) > MaxImport:
		return out, fault.New(fault.Invalid, "%d rows at once are too many; %d are allowed", len(in.Rows), MaxImport)
	case mode != "create" && mode != "update" && mode != "createorupdate":
		return out, fault.New(fault.Invalid, "mode must be create, update or createOrUpdate")
	}
	at, err := s.place(ctx)
	if err != nil {
		return out, err
	}
	defer func() { slices.SortFunc(out.Errors, func(a, b ImportedError) int { return a.Row - b.Row }) }()
	refuse := func(row int, name string, err error) error {
		if fault.KindOf(err) == fault.Internal {
			return err
		}
		out.Errors = append(out.Errors, ImportedError{row, name, codeOf(fault.KindOf(err)), fault.Public(err)})
		return nil
	}
	var drafts []draft
	var rows []int
	seen := make(map[string]bool, len(in.Rows))
	for i, text := range in.Rows {
		d, err := parseEnrollment(in.Group, "", text, at)
		if err == nil && seen[fold(d.Name)] {
			err = fault.New(fault.Invalid, "%s is there twice", d.Name)
		}
		if err != nil {
			if err := refuse(i, d.Name, err); err != nil {
				return out, err
			}
			continue
		}
		seen[fold(d.Name)] = true
		drafts, rows = append(drafts, d), append(rows, i)
	}
	count := func(existed bool) {
		if existed {
			out.Updated++
		} else {
			out.Created++
		}
	}
	if in.Group { // there are few, and they are checked against each other
		for i, d := range drafts {
			existed := false
			_, err := s.put(ctx, d, func(now *Enrollment) error {
				existed = now != nil
				if err := d.allowed(mode, now); err != nil || !in.DryRun {
					return err
				}
				if _, err := d.over(now, [2]secret.Secret{}); err != nil {
					return err
				}
				return errDry
			})
			if err == nil || errors.Is(err, errDry) {
				count(existed)
				continue
			}
			if err := refuse(rows[i], d.Name, err); err != nil {
				return out, err
			}
		}
		return out, nil
	}
	names, existed := make([]string, len(drafts)), make([]bool, len(drafts))
	spare := make([][2]secret.Secret, len(drafts))
	tags := make([]iot.ETag, len(drafts))
	for i, d := range drafts {
		names[i], tags[i] = d.Name, iot.ETag(nonce.New())
		if d.Attestation.Type == SymmetricKey && (d.keys[0].IsZero() || d.keys[1].IsZero()) {
			spare[i] = [2]secret.Secret{secret.Random(freshKey), secret.Random(freshKey)}
		}
	}
	now := s.now()
	errs, err := s.cfg.Store.PutEnrollments(ctx, false, names, func(i int, old *Enrollment) (Enrollment, error) {
		existed[i] = old != nil
		if err := drafts[i].allowed(mode, old); err != nil {
			return Enrollment{}, err
		}
		next, err := drafts[i].over(old, spare[i])
		if err != nil {
			return next, err
		}
		next.ETag, next.Updated = tags[i], now
		if old == nil {
			next.Created = now
		}
		if in.DryRun {
			return next, errDry
		}
		return next, nil
	})
	if err != nil {
		return out, err
	}
	for i, err := range errs {
		if err == nil || errors.Is(err, errDry) {
			count(existed[i])
			continue
		}
		if err := refuse(rows[i], names[i], err); err != nil {
			return out, err
		}
	}
	return out, nil
}
