package registry

import (
	"context"
	"encoding/json"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Record is an identity with its twin.
type Record struct {
	Identity Identity
	Twin     twin.Twin

	// Of a batch:
	Exists  bool     // it stood before; else only ID is set
	Modules []string // of a device that stood, by id
	Write   Write    // what the batch does to it
}

// Write says which parts of a record a batch writes. A record that does not exist and is written at all is made, with its twin.
type Write uint8

// The parts. WriteNothing leaves the record alone; Remove goes alone.
const (
	WriteIdentity Write = 1 << iota
	WriteTwin
	Remove
	WriteNothing Write = 0
)

// BatchStore changes and reads many identities at once, with a number of round trips that does not grow with theirs.
type BatchStore interface {
	// ChangeDevices hands change a record for each device id, in the order of ids (which differ from each other), and writes what it
	// says, and the facts of each twin that is not left alone, all in one transaction. change is as in Store.Update; what it may
	// not write there it may not write here.
	ChangeDevices(ctx context.Context, ids []string, change func([]Record)) error
	// Records returns devices and modules in order of their ids, behind the given one, at most limit. Pending stays 0.
	Records(ctx context.Context, after iot.ID, limit int) ([]Record, error)
}

// Outcome is what became of one row of Change.
type Outcome struct {
	Err      error
	Record   Record          // as it stands now; as it stood when it was removed
	Push     json.RawMessage // desired properties to tell the device; nil: none
	Disabled bool            // it may not connect any longer
	Removed  bool
	Single   bool // the row was left alone: it must be carried out by itself
}

// Plain reports whether a row can be one of Change: it is about a device, which has no place in a hierarchy.
func (e Entry) Plain() bool {
	c := &e.Change
	return e.ID.Module == "" && (c.Edge == nil || !*c.Edge) && (c.Scope == nil || *c.Scope == "") && (c.ParentScopes == nil || len(*c.ParentScopes) == 0) &&
		iot.ValidateID("deviceId", e.ID.Device) == nil
}

// Change carries out plain rows, of different devices, in one transaction. One that fails keeps no other from being done.
// written makes what the log is told of a twin that one of them changes; nil: nothing.
func (r *Registry) Change(ctx context.Context, rows []Entry, written func(before, after twin.Twin, w twin.Written) []iot.Message) ([]Outcome, error) {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID.Device
	}
	var outcomes []Outcome
	now := r.now()
	err := r.store.ChangeDevices(ctx, ids, func(rs []Record) {
		outcomes = make([]Outcome, len(rows)) // this may run again
		for i := range rs {
			before := rs[i]
			o := &outcomes[i]
			o.Err = rows[i].apply(&rs[i], o, now)
			if o.Removed && r.deleted != nil && len(before.Modules) > 0 {
				o.Single = true // there is something to say of each module, too
			}
			if o.Err != nil || o.Single {
				rs[i] = before
			}
			switch rec := &rs[i]; {
			case rec.Write == WriteNothing:
			case rec.Write == Remove && r.deleted != nil:
				rec.Twin.Facts = r.deleted(rec.Identity, rec.Twin)
			case !rec.Exists:
				rec.Twin.Facts = r.created(rec.Identity, rec.Twin)
			case rec.Write&WriteTwin != 0 && written != nil:
				rec.Twin.Facts = written(before.Twin, rec.Twin, twin.Written{Tags: rows[i].Patch.WrittenTags(before.Twin), Desired: o.Push})
			}
			o.Record = rs[i]
		}
	})
	return outcomes, err
}

// Records reads identities with their twins; see BatchStore.
func (r *Registry) Records(ctx context.Context, after iot.ID, limit int) ([]Record, error) {
	return r.store.Records(ctx, after, limit)
}

// apply does to rec what the row says. It is pure.
func (e *Entry) apply(rec *Record, o *Outcome, now time.Time) error {
	missing := fault.New(fault.NotFound, "device %s does not exist", e.ID)
	switch e.Mode {
	case BulkCreate:
		if rec.Exists {
			return fault.New(fault.AlreadyExists, "device %s exists already", e.ID)
		}
		return e.make(rec, now)
	case BulkCreateOrUpdate, BulkCreateOrUpdateIfMatch:
		if !rec.Exists {
			return e.make(rec, now)
		}
	default:
		if !rec.Exists {
			return missing
		}
	}
	switch e.Mode {
	case BulkUpdate, BulkCreateOrUpdate:
		return e.update(rec, nil, o, now)
	case BulkUpdateIfMatch, BulkCreateOrUpdateIfMatch:
		return e.update(rec, e.Match, o, now)
	case BulkDelete:
		rec.Write, o.Removed = Remove, true
		return nil
	case BulkDeleteIfMatch:
		if err := e.Match.Check(rec.Identity.ETag); err != nil {
			return err
		}
		rec.Write, o.Removed = Remove, true
		return nil
	case BulkUpdateTwin:
		return e.patch(rec, nil, o, now)
	case BulkUpdateTwinIfMatch:
		return e.patch(rec, e.TwinMatch, o, now)
	}
	return fault.New(fault.Invalid, "unknown mode %q", e.Mode)
}

func (e *Entry) make(rec *Record, now time.Time) error {
	d := e.Change.New(e.ID)
	d.Generation, d.ETag = generation(now), nextETag("")
	if d.Status == "" {
		d.Status = Enabled
	}
	d.Authentication = d.Authentication.completed()
	if err := d.check(); err != nil {
		return err
	}
	t, _, err := twin.New(e.ID).Apply(e.Patch, now)
	if err != nil {
		return err
	}
	rec.Identity, rec.Twin, rec.Write = d, t, WriteIdentity|WriteTwin
	return nil
}

func (e *Entry) update(rec *Record, match *iot.Match, o *Outcome, now time.Time) error {
	c, d := &e.Change, rec.Identity
	if d.Edge && c.Edge != nil || d.Scope != "" && (c.Scope != nil || c.ParentScopes != nil) {
		o.Single = true
		return nil
	}
	if err := match.Check(d.ETag); err != nil {
		return err
	}
	next := c.apply(d, now)
	next.Authentication = next.Authentication.completed()
	next.ETag = nextETag(d.ETag)
	if err := next.check(); err != nil {
		return err
	}
	rec.Identity, rec.Write = next, WriteIdentity
	o.Disabled = next.Status == Disabled
	if !e.Patch.HasTags && !e.Patch.HasDesired {
		return nil
	}
	return e.patch(rec, e.TwinMatch, o, now)
}

func (e *Entry) patch(rec *Record, match *iot.Match, o *Outcome, now time.Time) error {
	if err := match.Check(rec.Twin.ETag()); err != nil {
		return err
	}
	t, push, err := rec.Twin.Apply(e.Patch, now)
	if err != nil {
		return err
	}
	rec.Twin, o.Push = t, push
	rec.Write |= WriteTwin
	return nil
}
