package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/storage/azblob"
)

// transferContainer is the hub's container for files of identities.
const transferContainer = "vauban-transfers"

const lineForm = `A line is one device or module as import and export jobs of Azure IoT Hub know it:

  {"id":"lamp-1","importMode":"create","status":"enabled",
   "authentication":{"type":"sas","symmetricKey":{"primaryKey":"...","secondaryKey":"..."}},
   "tags":{"site":"lyon"},"properties":{"desired":{"level":3}}}

All but id may be absent; a device without authentication gets two new keys.`

func deviceImport() *cobra.Command {
	var mode string
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Create, change or delete many devices from a file of JSON lines",
		Long: `Create, change or delete many devices and modules from a file of JSON lines; - reads standard
input. The file is carried out as an import job of the hub: nothing else may be imported or
exported meanwhile, and an interrupt cancels it; what was done by then stays.

` + lineForm + `

importMode is create, update, createOrUpdate or delete, and updateIfMatchETag or
deleteIfMatchETag with eTag; --mode is for lines without one. A line that is refused does not keep
others from being carried out; when there was one the exit code is 3.`,
		Example: `  vauban device import fleet.jsonl
  vauban device import fleet.jsonl --mode create
  vauban device import fleet.jsonl --output json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&mode, "mode", "", "importMode of lines that have none; the hub's own rule when absent: createOrUpdate")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, r *remote, args []string, out output) error {
		in := c.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		t, err := openTransfer(c, hub, r)
		if err != nil {
			return err
		}
		defer t.close()
		lines, err := t.upload(in, mode)
		if err != nil {
			return err
		}
		job, err := t.run(map[string]any{"type": transfer.Import, "inputBlobName": t.file})
		if err != nil {
			return err
		}
		if job.Status != transfer.Completed {
			return fmt.Errorf("the import was %s, what was done by then stays: %s", job.Status, job.Failure)
		}
		refused, err := t.refusals()
		if err != nil {
			return err
		}
		result := deviceImported{Lines: lines, Done: lines - len(refused), Refused: len(refused), Errors: refused}
		if err := result.print(c.OutOrStdout(), out); err != nil {
			return err
		}
		if len(refused) > 0 {
			return foundError{fmt.Errorf("%d of %d lines were refused", len(refused), lines)}
		}
		return nil
	})
}

func deviceExport() *cobra.Command {
	var keys bool
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "Write all devices and modules to a file of JSON lines",
		Long: `Write all devices and modules, with their tags and desired properties, to a file of JSON lines
that "vauban device import" takes; - is standard output. The file is written by an export job of
the hub: nothing else may be imported or exported meanwhile.`,
		Example: `  vauban device export fleet.jsonl
  vauban device export all.jsonl --keys           # for a move: keep that file safe
  vauban device export - | jq -r .id`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&keys, "keys", false, "write symmetric keys, too")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, r *remote, args []string, out output) error {
		t, err := openTransfer(c, hub, r)
		if err != nil {
			return err
		}
		defer t.close()
		job, err := t.run(map[string]any{"type": transfer.Export, "outputBlobName": t.file, "excludeKeysInExport": !keys})
		if err != nil {
			return err
		}
		if job.Status != transfer.Completed {
			return fmt.Errorf("the export was %s: %s", job.Status, job.Failure)
		}
		n, err := t.download(args[0])
		if err != nil {
			return err
		}
		switch {
		case out == "json" && args[0] != "-":
			return printJSON(c.OutOrStdout(), map[string]any{"identities": n, "file": args[0], "keys": keys})
		case args[0] == "-":
			fmt.Fprintf(c.ErrOrStderr(), "%d identities\n", n)
		default:
			fmt.Fprintf(c.OutOrStdout(), "%d identities are in %s\n", n, args[0])
		}
		return nil
	})
}

// deviceImported is what an import did.
type deviceImported struct {
	Lines   int             `json:"lines"`
	Done    int             `json:"done"`
	Refused int             `json:"refused"`
	Errors  []refusedDevice `json:"errors"`
}

// refusedDevice is a line of the job's importErrors.log.
type refusedDevice struct {
	Line     int    `json:"lineNumber"`
	ID       string `json:"id,omitempty"`
	ModuleID string `json:"moduleId,omitempty"`
	Code     string `json:"errorCode"`
	Text     string `json:"errorStatus"`
}

func (d deviceImported) print(w io.Writer, out output) error {
	if out == "json" {
		if d.Errors == nil {
			d.Errors = []refusedDevice{}
		}
		return printJSON(w, d)
	}
	for _, e := range d.Errors[:min(len(d.Errors), shownRefusals)] {
		name := e.ID
		if e.ModuleID != "" {
			name += "/" + e.ModuleID
		}
		fmt.Fprintf(w, "line %d (%s): %s (%s)\n", e.Line, name, e.Text, e.Code)
	}
	if n := len(d.Errors) - shownRefusals; n > 0 {
		fmt.Fprintf(w, "and %d more; --output json tells them\n", n)
	}
	_, err := fmt.Fprintf(w, "%d carried out, %d refused\n", d.Done, d.Refused)
	return err
}

// deviceTransfer carries one file to or from the hub's container.
type deviceTransfer struct {
	c     *cobra.Command
	hub   *service.Client
	blobs *azblob.Client
	in    transfer.Container
	own   string // URI of the container, without a token
	file  string // name of the file, which only this command knows
}

func openTransfer(c *cobra.Command, hub *service.Client, r *remote) (*deviceTransfer, error) {
	data, err := hub.Do(c.Context(), http.MethodPost, "/"+transferContainer, "", url.Values{"restype": {"container"}, "comp": {"sas"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("the hub's container for files: %w", err)
	}
	var grant struct{ ContainerURI string }
	if err := json.Unmarshal(data, &grant); err != nil {
		return nil, err
	}
	u, err := url.Parse(grant.ContainerURI)
	if err != nil {
		return nil, errors.New("the hub names its container in a form that cannot be read")
	}
	trust := r.tls.Clone()
	trust.ServerName = r.conn.Hub.Hostname
	blobs, err := azblob.New(azblob.Config{Own: &azblob.Own{Host: u.Host, Address: r.address(), TLS: trust}})
	if err != nil {
		return nil, err
	}
	k, err := blobs.Open(grant.ContainerURI, false)
	if err != nil {
		return nil, err
	}
	return &deviceTransfer{c: c, hub: hub, blobs: blobs, in: k, own: "https://" + r.address() + "/" + transferContainer, file: "cli-" + nonce.New() + ".jsonl"}, nil
}

// close removes what lies in the container: it may hold keys.
func (t *deviceTransfer) close() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.c.Context()), time.Minute)
	defer cancel()
	_, err := t.hub.Do(ctx, http.MethodDelete, "/"+transferContainer+"/"+t.file, "", nil, nil)
	if e, ok := errors.AsType[*service.Error](err); err != nil && (!ok || e.Status != http.StatusNotFound) {
		fmt.Fprintf(t.c.ErrOrStderr(), "vauban: %s is left in the hub's container: %v\n", t.file, err)
	}
	t.blobs.Close()
}

// upload sends the lines of in, with mode for those that have none, and returns how many there are.
func (t *deviceTransfer) upload(in io.Reader, mode string) (lines int, err error) {
	up, err := t.in.Put(t.c.Context(), t.file)
	if err != nil {
		return 0, err
	}
	defer up.Abort()
	w := bufio.NewWriterSize(up, 64<<10)
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 64<<10), transfer.MaxLine)
	for n := 1; s.Scan(); n++ {
		line := bytes.TrimSpace(s.Bytes())
		if len(line) > 0 {
			if lines++; line[0] != '{' {
				return 0, fmt.Errorf("line %d is no JSON object; the file must have one device a line", n)
			}
			if mode != "" {
				if line, err = withMode(line, mode); err != nil {
					return 0, fmt.Errorf("line %d: %w", n, err)
				}
			}
		}
		if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
			return 0, err
		}
	}
	if err := s.Err(); err != nil {
		return 0, fmt.Errorf("the file cannot be read: %w; a line may have %d KiB", err, transfer.MaxLine>>10)
	}
	if lines == 0 {
		return 0, misuse("the file holds no device")
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	return lines, up.Commit()
}

// withMode returns a line with an importMode.
func withMode(line []byte, mode string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, err
	}
	if _, ok := fields["importMode"]; ok {
		return line, nil
	}
	fields["importMode"], _ = json.Marshal(mode) // a string always marshals
	return json.Marshal(fields)
}

// jobState is what is read of a job's document.
type jobState struct {
	ID       string          `json:"jobId"`
	Status   transfer.Status `json:"status"`
	Progress int             `json:"progress"`
	Failure  string          `json:"failureReason"`
}

// run starts a job and follows it to its end, which is the caller's to judge.
func (t *deviceTransfer) run(request map[string]any) (jobState, error) {
	ctx := t.c.Context()
	request["storageAuthenticationType"] = "identityBased"
	request["inputBlobContainerUri"], request["outputBlobContainerUri"] = t.own, t.own
	job, err := t.job(ctx, http.MethodPost, "/jobs/create", request)
	if err != nil {
		return job, err
	}
	defer func() {
		if !job.Status.Over() {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			said := "is cancelled; what was done stays"
			if _, err := t.hub.Do(late, http.MethodDelete, "/jobs/"+job.ID, "", nil, nil); err != nil {
				said = "goes on, it could not be cancelled: " + err.Error()
			}
			fmt.Fprintf(t.c.ErrOrStderr(), "vauban: job %s %s\n", job.ID, said)
		}
	}()
	wait, told := 10*time.Millisecond, time.Now()
	for !job.Status.Over() {
		select {
		case <-ctx.Done():
			return job, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, 500*time.Millisecond)
		next, err := t.job(ctx, http.MethodGet, "/jobs/"+job.ID, nil)
		if err != nil {
			return job, err
		}
		job = next
		if time.Since(told) >= progressPeriod {
			told = time.Now()
			fmt.Fprintf(t.c.ErrOrStderr(), "%d %%\n", job.Progress)
		}
	}
	return job, nil
}

func (t *deviceTransfer) job(ctx context.Context, method, path string, body any) (j jobState, err error) {
	data, err := t.hub.Do(ctx, method, path, "", nil, body)
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	return j, err
}

// refusals reads what the job wrote of lines that were refused.
func (t *deviceTransfer) refusals() (all []refusedDevice, err error) {
	r, _, err := t.in.Get(t.c.Context(), transfer.ErrorsBlob)
	if err != nil {
		return nil, fmt.Errorf("what was refused cannot be read: %w", err)
	}
	defer r.Close()
	for dec := json.NewDecoder(r); ; {
		var one refusedDevice
		if err := dec.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
}

// download writes the exported file to path and returns how many identities it has.
func (t *deviceTransfer) download(path string) (n int, err error) {
	r, _, err := t.in.Get(t.c.Context(), t.file)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	w := t.c.OutOrStdout()
	if path != "-" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) // it may hold keys
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w = f
	}
	count := &lineCounter{w: w}
	_, err = io.Copy(count, r)
	return count.lines, err
}

// lineCounter counts the lines that pass.
type lineCounter struct {
	w     io.Writer
	lines int
}

func (c *lineCounter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.lines += bytes.Count(p[:n], []byte{'\n'})
	return n, err
}
