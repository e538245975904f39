package registry

import (
	"encoding/json"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Entry is one row of a bulk operation (hub-service §2.7).
type Entry struct {
	ID        iot.ID
	Mode      Mode
	Match     *iot.Match // member etag; nil: absent
	TwinMatch *iot.Match // member twinETag; nil: absent
	Change    Change
	Patch     twin.Patch
}

// Mode is what a row wants, in lower case: programs spell it in several ways.
type Mode string

// The modes.
const (
	BulkCreate                Mode = "create"
	BulkUpdate                Mode = "update"
	BulkUpdateIfMatch         Mode = "updateifmatchetag"
	BulkDelete                Mode = "delete"
	BulkDeleteIfMatch         Mode = "deleteifmatchetag"
	BulkUpdateTwin            Mode = "updatetwin"
	BulkUpdateTwinIfMatch     Mode = "updatetwinifmatchetag"
	BulkCreateOrUpdate        Mode = "createorupdate"
	BulkCreateOrUpdateIfMatch Mode = "createorupdateifmatchetag"
)

// modes are all modes, with the member that a conditional one needs.
var modes = map[Mode]string{
	BulkCreate: "", BulkUpdate: "", BulkUpdateIfMatch: "etag", BulkDelete: "", BulkDeleteIfMatch: "etag",
	BulkUpdateTwin: "", BulkUpdateTwinIfMatch: "twinETag", BulkCreateOrUpdate: "", BulkCreateOrUpdateIfMatch: "etag",
}

// MaxBulk is the most rows of one bulk operation (hub-service §2.7).
const MaxBulk = 100

// ErrDefinedTwice refuses a bulk operation that names one identity in two rows. It is fault.Invalid.
var ErrDefinedTwice = fault.New(fault.Invalid, "an identity stands in two rows")

// ParseBulk reads the body of a bulk operation. A row that cannot be read refuses them all: fault.Malformed,
// fault.Invalid or ErrDefinedTwice.
func ParseBulk(body []byte) ([]Entry, error) {
	var rows []json.RawMessage
	if err := json.Unmarshal(body, &rows); err != nil {
		return nil, fault.Wrap(fault.Malformed, err, "the body is not a list of identities")
	}
	if len(rows) == 0 || len(rows) > MaxBulk {
		return nil, fault.New(fault.Invalid, "there are %d rows, 1 to %d are allowed", len(rows), MaxBulk)
	}
	seen := make(map[iot.ID]bool, len(rows))
	entries := make([]Entry, 0, len(rows))
	for i, row := range rows {
		e, err := parseEntry(row, "")
		if err != nil {
			return nil, fault.Wrap(fault.KindOf(err), err, "row %d: %s", i, fault.Public(err))
		}
		if seen[e.ID] {
			return nil, ErrDefinedTwice
		}
		seen[e.ID] = true
		entries = append(entries, e)
	}
	return entries, nil
}

// ParseLine reads one line of an import, whose mode is createOrUpdate unless it says otherwise. Failures are fault.Malformed
// and fault.Invalid; the entry names its identity as far as it can be told.
func ParseLine(line []byte) (Entry, error) { return parseEntry(line, BulkCreateOrUpdate) }

// parseEntry reads a row. A row without a mode has the fallback.
func parseEntry(row []byte, fallback Mode) (Entry, error) {
	var doc struct {
		ID       string  `json:"id"`
		ModuleID string  `json:"moduleId"`
		Mode     string  `json:"importMode"`
		ETag     *string `json:"eTag"` // azure-iothub writes etag; names match in any case
		TwinETag *string `json:"twinETag"`
	}
	if err := json.Unmarshal(row, &doc); err != nil {
		return Entry{}, fault.Wrap(fault.Malformed, err, "it is no identity")
	}
	e := Entry{ID: iot.ID{Device: doc.ID, Module: doc.ModuleID}, Mode: Mode(strings.ToLower(doc.Mode)), Match: match(doc.ETag), TwinMatch: match(doc.TwinETag)}
	if e.ID.Device == "" {
		return e, fault.New(fault.Invalid, "id is missing")
	}
	if e.Mode == "" {
		e.Mode = fallback
	}
	condition, ok := modes[e.Mode]
	switch {
	case !ok:
		return e, fault.New(fault.Invalid, "importMode %q is unknown", doc.Mode)
	case condition == "etag" && e.Match == nil, condition == "twinETag" && e.TwinMatch == nil:
		return e, fault.New(fault.Invalid, "importMode %s needs %s", doc.Mode, condition)
	}
	var err error
	if e.Change, err = ParseIdentity(row); err != nil {
		return e, err
	}
	e.Patch, err = twin.ParsePatch(row)
	return e, err
}

func match(tag *string) *iot.Match {
	if tag == nil {
		return nil
	}
	return iot.ParseMatch(*tag)
}
