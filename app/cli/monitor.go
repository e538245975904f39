package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
)

// apiCommand is a command that calls the operator's API.
func apiCommand(c *cobra.Command, run func(c *cobra.Command, r *remote, args []string, out output) error) *cobra.Command {
	var data string
	var out output
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := out.check(); err != nil {
			return err
		}
		r, err := dialRemote(data)
		if err != nil {
			return err
		}
		return run(c, r, args, out)
	}
	dataFlag(c, &data)
	out.register(c)
	return c
}

func monitorCommand() *cobra.Command {
	var device string
	var count int
	c := &cobra.Command{
		Use:   "monitor",
		Short: "Print device messages as they arrive",
		Long: `Print device-to-cloud messages as they arrive, until interrupted. With --output json each
message is one JSON object on a line. A reader that is too slow loses messages
and is told how many; devices never wait for it.`,
		Example: `  vauban monitor
  vauban monitor --device lamp-1 --output json | jq .body`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&device, "device", "", "only messages of this device")
	c.Flags().IntVar(&count, "count", 0, "end after this many messages; 0: never")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{}
		if device != "" {
			query.Set("device", device)
		}
		res, err := r.api(c.Context(), http.MethodGet, "/api/messages", query, nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if out == "table" {
			fmt.Fprintln(c.ErrOrStderr(), "waiting for messages; interrupt to end")
		}
		lines := bufio.NewReaderSize(res.Body, 64<<10)
		for n := 0; count == 0 || n < count; {
			line, err := lines.ReadBytes('\n')
			if line = bytes.TrimSpace(line); len(line) > 0 {
				var m message
				if err := json.Unmarshal(line, &m); err != nil {
					return fmt.Errorf("unreadable message: %w", err)
				}
				if m.Dropped > 0 {
					fmt.Fprintf(c.ErrOrStderr(), "vauban: %d messages were lost because this reader is too slow\n", m.Dropped)
					continue
				}
				if out == "json" {
					fmt.Fprintf(c.OutOrStdout(), "%s\n", line)
				} else {
					m.print(c.OutOrStdout())
				}
				n++
			}
			if err != nil {
				if c.Context().Err() != nil {
					return nil
				}
				return fmt.Errorf("the installation closed the stream: %w", err)
			}
		}
		return nil
	})
}

// message is what monitor shows of a message; the API sends more.
type message struct {
	Enqueued   string             `json:"enqueuedTime"`
	Device     string             `json:"deviceId"`
	Module     string             `json:"moduleId"`
	Security   bool               `json:"security"`
	Properties map[string]*string `json:"properties"`
	Body       json.RawMessage    `json:"body"`
	Bytes      int                `json:"bodyBytes"`
	Dropped    int                `json:"dropped"`
}

func (m message) print(w io.Writer) {
	from := m.Device
	if m.Module != "" {
		from += "/" + m.Module
	}
	kind := ""
	if m.Security {
		kind = "  [security]"
	}
	body := string(m.Body)
	if body == "" {
		body = fmt.Sprintf("(%d bytes)", m.Bytes)
	}
	var props []string
	for name, value := range m.Properties {
		if value == nil {
			props = append(props, name)
		} else {
			props = append(props, name+"="+*value)
		}
	}
	sort.Strings(props)
	if len(props) > 0 {
		kind += "  {" + strings.Join(props, ", ") + "}"
	}
	fmt.Fprintf(w, "%s  %s%s  %s\n", when(m.Enqueued), from, kind, body)
}

func certificateCommand() *cobra.Command {
	return group("certificate", "Manage the CAs whose certificates prove devices", certificateAdd(), certificateList(), certificateDelete())
}

func certificateAdd() *cobra.Command {
	c := &cobra.Command{
		Use:   "add NAME FILE",
		Short: "Trust a CA for device certificates",
		Long: `Trust a CA: devices of type certificateAuthority whose certificate chains to it, with
their id as common name, may connect. The CAs of X.509 enrollment groups are
trusted without this. FILE is PEM; - reads standard input.`,
		Example: `  vauban certificate add plant-2026 ca.pem`,
		Args:    cobra.ExactArgs(2),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		in := c.InOrStdin()
		if args[1] != "-" {
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		res, err := r.api(c.Context(), http.MethodPut, "/api/certificates/"+url.PathEscape(args[0]), nil, io.LimitReader(in, maxArgument))
		if err != nil {
			return err
		}
		res.Body.Close()
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"added": args[0]})
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s is trusted\n", args[0])
		return err
	})
}

func certificateList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List trusted CAs", Example: `  vauban certificate list`, Args: cobra.NoArgs}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		res, err := r.api(c.Context(), http.MethodGet, "/api/certificates", nil, nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var list struct {
			Certificates []struct {
				Name     string `json:"name"`
				Subject  string `json:"subject"`
				NotAfter string `json:"notAfter"`
			} `json:"certificates"`
		}
		data, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), json.RawMessage(data))
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return fmt.Errorf("unreadable answer: %w", err)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "NAME\tSUBJECT\tVALID UNTIL")
		for _, x := range list.Certificates {
			fmt.Fprintf(w, "%s\t%s\t%s\n", x.Name, x.Subject, when(x.NotAfter))
		}
		return w.Flush()
	})
}

func certificateDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Stop trusting a CA; connected devices stay until they reconnect",
		Example: `  vauban certificate delete plant-2026`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		res, err := r.api(c.Context(), http.MethodDelete, "/api/certificates/"+url.PathEscape(args[0]), nil, nil)
		if err != nil {
			return err
		}
		res.Body.Close()
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"deleted": args[0]})
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s is no longer trusted\n", args[0])
		return err
	})
}
