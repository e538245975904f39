package cli

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/dps"
)

func enrollmentImport(k kind) *cobra.Command {
	var format, mode string
	var dry bool
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Create or change many " + k.word + "s from a CSV or JSON file",
		Long: fmt.Sprintf(`Create or change many %[1]ss. FILE is CSV or JSON; - reads standard input, whose format
--format says.

CSV has a header line that names its columns, in any order; all but %[2]s may be
absent or empty:

%[3]s

Lists are separated by spaces; certificates are PEM or base64 of DER, or @FILE.

JSON is an array of %[1]ss as the service API takes them, an object with that array as
%[4]s, or one %[1]s a line.

Rows are written a thousand at a time. A row that is refused does not keep others from being
written; when there was one the exit code is 3. With --dry-run nothing is written, and the
outcome is what it would have been.`, k.word, k.name, folded(columnNames(k)), k.list),
		Example: fmt.Sprintf(`  vauban dps %[1]s import fleet.csv --dry-run
  vauban dps %[1]s import fleet.csv --mode createOrUpdate
  vauban dps %[1]s list --output json > all.json
  vauban dps %[1]s import all.json --mode update --output json`, k.word),
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&format, "format", "", `"csv" or "json"; by the name of the file when absent`)
	c.Flags().StringVar(&mode, "mode", "create", `"create" refuses those that exist, "update" those that do not, "createOrUpdate" neither`)
	c.Flags().BoolVar(&dry, "dry-run", false, "check everything and write nothing")
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"create", "update", "createOrUpdate"}, cobra.ShellCompDirectiveNoFileComp))
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if format == "" {
			format = strings.TrimPrefix(strings.ToLower(filepath.Ext(args[0])), ".")
			if format == "jsonl" || format == "ndjson" {
				format = "json"
			}
		}
		if format != "csv" && format != "json" {
			return misuse(`the format is not known; give --format csv or --format json`)
		}
		in := c.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		rows := jsonRows(in, k)
		if format == "csv" {
			rows = csvRows(in, k)
		}
		i := importer{c: c, r: r, k: k, mode: mode, dry: dry, total: importOutcome{DryRun: dry, Errors: []importRefusal{}}}
		err := i.run(rows)
		return errors.Join(i.print(out), err)
	})
}

// importOutcome is what an import did, or would do.
type importOutcome struct {
	Created int             `json:"created"`
	Updated int             `json:"updated"`
	Refused int             `json:"refused"`
	DryRun  bool            `json:"dryRun"`
	Errors  []importRefusal `json:"errors"` // the first of them
}

type importRefusal struct {
	Row     int    `json:"row"` // from 1, without the header of a CSV file
	Name    string `json:"name,omitempty"`
	Code    int    `json:"errorCode,omitempty"`
	Message string `json:"message"`
}

// Refusals that are told one by one: to programs, and to people.
const (
	maxRefusals   = 1000
	shownRefusals = 20
)

// progressPeriod is how often people hear how far an import is.
const progressPeriod = time.Second

type importer struct {
	c     *cobra.Command
	r     *remote
	k     kind
	mode  string
	dry   bool
	total importOutcome

	part  []json.RawMessage
	bytes int
	told  time.Time
}

// maxPart bounds the bytes of a part.
const maxPart = 16 << 20

// run reads rows until there are no more. next returns a row, or what is wrong with it as refusal.
func (i *importer) run(next func() (row json.RawMessage, refusal, err error)) error {
	i.told = time.Now()
	n := 0
	rows := []int{} // of the part
	flush := func() error {
		err := i.send(rows)
		i.part, i.bytes, rows = nil, 0, rows[:0]
		return err
	}
	for {
		row, refusal, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(flush(), fmt.Errorf("row %d: %w", n+1, err))
		}
		n++
		if refusal != nil {
			i.refuse(importRefusal{Row: n, Message: refusal.Error()})
			continue
		}
		i.part, i.bytes, rows = append(i.part, row), i.bytes+len(row), append(rows, n)
		if len(i.part) == dps.MaxImport || i.bytes > maxPart {
			if err := flush(); err != nil {
				return err
			}
			if time.Since(i.told) >= progressPeriod {
				i.told = time.Now()
				fmt.Fprintf(i.c.ErrOrStderr(), "%d rows\n", n)
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if i.total.Refused > 0 {
		return foundError{fmt.Errorf("%d of %d rows were refused", i.total.Refused, n)}
	}
	return nil
}

func (i *importer) refuse(r importRefusal) {
	i.total.Refused++
	if len(i.total.Errors) < maxRefusals {
		i.total.Errors = append(i.total.Errors, r)
	}
}

func (i *importer) send(rows []int) error {
	if len(i.part) == 0 {
		return nil
	}
	body, err := json.Marshal(map[string]any{"mode": i.mode, "dryRun": i.dry, i.k.list: i.part})
	if err != nil {
		return err
	}
	var out dps.Imported
	if _, err := call(i.c, i.r, http.MethodPost, "/api/provisioning/import", nil, bytes.NewReader(body), &out); err != nil {
		return fmt.Errorf("rows %d to %d: %w", rows[0], rows[len(rows)-1], err)
	}
	i.total.Created += out.Created
	i.total.Updated += out.Updated
	for _, e := range out.Errors {
		i.refuse(importRefusal{rows[e.Row], e.Name, e.Code, e.Message})
	}
	return nil
}

func (i *importer) print(out output) error {
	w := i.c.OutOrStdout()
	slices.SortFunc(i.total.Errors, func(a, b importRefusal) int { return a.Row - b.Row })
	if out == "json" {
		return printJSON(w, i.total)
	}
	shown := i.total.Errors[:min(len(i.total.Errors), shownRefusals)]
	for _, e := range shown {
		name := ""
		if e.Name != "" {
			name = " (" + e.Name + ")"
		}
		fmt.Fprintf(w, "row %d%s: %s\n", e.Row, name, e.Message)
	}
	if n := i.total.Refused - len(shown); n > 0 {
		fmt.Fprintf(w, "and %d more; --output json tells them\n", n)
	}
	would := ""
	if i.dry {
		would = "would be "
	}
	_, err := fmt.Fprintf(w, "%d %screated, %d %supdated, %d refused\n", i.total.Created, would, i.total.Updated, would, i.total.Refused)
	return err
}

// jsonRows reads an array, an object that holds it, or one value after the other.
func jsonRows(in io.Reader, k kind) func() (json.RawMessage, error, error) {
	b := bufio.NewReaderSize(in, 1<<16)
	d := json.NewDecoder(b)
	var begun, array bool
	begin := func() error {
		for {
			c, err := b.Peek(1)
			if err != nil {
				return err
			}
			if strings.ContainsRune(" \t\r\n", rune(c[0])) {
				_, _ = b.Discard(1) // it was peeked at
				continue
			}
			array = c[0] == '['
			break
		}
		if !array {
			return nil
		}
		_, err := d.Token()
		return err
	}
	var held []json.RawMessage // rows of an object
	return func() (json.RawMessage, error, error) {
		if len(held) > 0 {
			row := held[0]
			held = held[1:]
			return row, nil, nil
		}
		if !begun {
			begun = true
			if err := begin(); err != nil {
				return nil, nil, err
			}
		}
		if array && !d.More() {
			if _, err := d.Token(); err != nil { // the closing bracket
				return nil, nil, noEOF(err)
			}
			return nil, nil, io.EOF
		}
		var row json.RawMessage
		if err := d.Decode(&row); err != nil {
			if array {
				err = noEOF(err)
			}
			return nil, nil, err
		}
		var outer map[string]json.RawMessage
		if !array && json.Unmarshal(row, &outer) == nil && outer[k.list] != nil {
			if err := json.Unmarshal(outer[k.list], &held); err != nil {
				return nil, nil, err
			}
			if len(held) == 0 {
				return nil, nil, io.EOF
			}
			row, held = held[0], held[1:]
		}
		return row, nil, nil
	}
}

// noEOF makes an end in the middle an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// columns of CSV files, by the names of the members they become.
var columns = []struct {
	name string
	of   int // 0: both kinds, 1: enrollments, 2: groups
	set  func(*fields, string) error
}{
	{"deviceId", 1, text(func(f *fields) *string { return &f.DeviceID })},
	{"attestation", 0, text(func(f *fields) *string { return &f.Type })},
	{"primaryKey", 0, text(func(f *fields) *string { return &f.PrimaryKey })},
	{"secondaryKey", 0, text(func(f *fields) *string { return &f.SecondaryKey })},
	{"endorsementKey", 1, text(func(f *fields) *string { return &f.Endorsement })},
	{"storageRootKey", 1, text(func(f *fields) *string { return &f.Storage })},
	{"primaryCertificate", 0, certificate(func(f *fields) *string { return &f.Certificate })},
	{"secondaryCertificate", 0, certificate(func(f *fields) *string { return &f.SecondaryCert })},
	{"primaryCA", 2, text(func(f *fields) *string { return &f.CA })},
	{"secondaryCA", 2, text(func(f *fields) *string { return &f.SecondaryCA })},
	{"provisioningStatus", 0, func(f *fields, v string) error {
		f.Disabled = strings.EqualFold(v, "disabled")
		if !f.Disabled && !strings.EqualFold(v, "enabled") {
			return errors.New("provisioningStatus must be enabled or disabled")
		}
		return nil
	}},
	{"iotEdge", 0, func(f *fields, v string) (err error) {
		if f.Edge, err = strconv.ParseBool(v); err != nil {
			err = errors.New("iotEdge must be true or false")
		}
		return err
	}},
	{"allocationPolicy", 0, text(func(f *fields) *string { return &f.Allocation })},
	{"webhookUrl", 0, text(func(f *fields) *string { return &f.Webhook })},
	{"iotHubs", 0, func(f *fields, v string) error { f.Hubs = strings.Fields(v); return nil }},
	{"tags", 0, text(func(f *fields) *string { return &f.Tags })},
	{"desired", 0, text(func(f *fields) *string { return &f.Desired })},
	{"reprovision", 0, text(func(f *fields) *string { return &f.Reprovision })},
	{"credentialPolicyName", 0, text(func(f *fields) *string { return &f.CredentialPolicy })},
}

func text(at func(*fields) *string) func(*fields, string) error {
	return func(f *fields, v string) error { *at(f) = v; return nil }
}

func certificate(at func(*fields) *string) func(*fields, string) error {
	return func(f *fields, v string) error {
		if file, ok := strings.CutPrefix(v, "@"); ok {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			v = string(data)
		}
		*at(f) = v
		return nil
	}
}

func (k kind) has(of int) bool { return of == 0 || (of == 2) == k.group }

func columnNames(k kind) []string {
	names := []string{k.name}
	for _, c := range columns {
		if k.has(c.of) {
			names = append(names, c.name)
		}
	}
	return names
}

// folded is a list of names in lines of a terminal.
func folded(names []string) string {
	const width = 80
	lines := []string{" "}
	for i, name := range names {
		if i < len(names)-1 {
			name += ","
		}
		if last := len(lines) - 1; len(lines[last])+len(name) < width {
			lines[last] += " " + name
		} else {
			lines = append(lines, "  "+name)
		}
	}
	return strings.Join(lines, "\n")
}

// csvRows reads rows of a CSV file and makes documents of them.
func csvRows(in io.Reader, k kind) func() (json.RawMessage, error, error) {
	b := bufio.NewReader(in)
	if mark, err := b.Peek(3); err == nil && string(mark) == "\ufeff" { // as spreadsheets begin files
		_, _ = b.Discard(3)
	}
	r := csv.NewReader(b)
	r.TrimLeadingSpace = true
	r.ReuseRecord = true
	var set []func(*fields, string) error // by column; nil: the name
	return func() (json.RawMessage, error, error) {
		if set == nil {
			header, err := r.Read()
			if err != nil {
				return nil, nil, err
			}
			named := false
			for _, name := range header {
				name = strings.TrimSpace(name)
				var f func(*fields, string) error
				known := strings.EqualFold(name, k.name)
				named = named || known
				for _, c := range columns {
					if strings.EqualFold(c.name, name) && k.has(c.of) {
						f, known = c.set, true
					}
				}
				if !known {
					return nil, nil, misuse("the header names an unknown column %q; there are %s", name, strings.Join(columnNames(k), ", "))
				}
				set = append(set, f)
			}
			if !named {
				return nil, nil, misuse("the header does not name the column %s", k.name)
			}
		}
		record, err := r.Read()
		if err != nil {
			if e, ok := errors.AsType[*csv.ParseError](err); ok && errors.Is(e.Err, csv.ErrFieldCount) {
				return nil, e, nil
			}
			return nil, nil, err
		}
		var f fields
		name := ""
		for i, v := range record {
			switch v = strings.TrimSpace(v); {
			case set[i] == nil:
				name = v
			case v != "":
				if err := set[i](&f, v); err != nil {
					return nil, err, nil
				}
			}
		}
		doc, err := f.document(k, name)
		if err != nil {
			return nil, err, nil
		}
		row, err := json.Marshal(doc)
		return row, nil, err
	}
}
