package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
)

func deadLettersCommand() *cobra.Command {
	return group("dead-letters", "Look into what endpoints did not take", deadLettersList(), deadLettersShow(),
		deadLettersChange("replay", "Deliver dead letters again", http.MethodPost, "/replay", "will be delivered again"),
		deadLettersChange("drop", "Forget dead letters", http.MethodDelete, "", "dropped"))
}

const deadLettersPath = "/api/routing/dead-letters"

// maxAnswer bounds an answer; a page of dead letters has a thousand at most.
const maxAnswer = 16 << 20

func readAnswer(res *http.Response, v any) error {
	defer res.Body.Close()
	return json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(v)
}

func deadLettersList() *cobra.Command {
	var after int64
	var limit int
	c := &cobra.Command{
		Use:   "list [ENDPOINT]",
		Short: "Count dead letters, or list those of an endpoint",
		Long: `Without an endpoint: how many messages each endpoint did not take. With one: which they
are, oldest first, and why. A message becomes a dead letter when its endpoint says that
it will never take it, when the endpoint failed until the message was a day old, and when
enrichments make it larger than 256 KB. The newest 10,000 of an endpoint are kept, and no
more than 64 MiB.`,
		Example: `  vauban route dead-letters list
  vauban route dead-letters list hook --limit 20`,
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().Int64Var(&after, "after", 0, "only those behind this sequence")
	c.Flags().IntVar(&limit, "limit", 100, "at most this many, 1 to 1000")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		path, q := deadLettersPath, url.Values{}
		if len(args) > 0 {
			path += "/" + url.PathEscape(args[0])
			q.Set("limit", strconv.Itoa(limit))
			q.Set("after", strconv.FormatInt(after, 10))
		}
		res, err := r.api(c.Context(), http.MethodGet, path, q, nil)
		if err != nil {
			return err
		}
		var answer struct {
			Endpoints   []api.DeadLetterCount `json:"endpoints"`
			DeadLetters []api.DeadLetter      `json:"deadLetters"`
		}
		if err := readAnswer(res, &answer); err != nil {
			return err
		}
		switch {
		case out == "json" && len(args) > 0:
			return printJSON(c.OutOrStdout(), answer.DeadLetters)
		case out == "json":
			return printJSON(c.OutOrStdout(), answer.Endpoints)
		case len(answer.Endpoints)+len(answer.DeadLetters) == 0:
			fmt.Fprintln(c.ErrOrStderr(), "no dead letters")
			return nil
		}
		w := table(c.OutOrStdout())
		if len(args) == 0 {
			fmt.Fprintln(w, "ENDPOINT\tMESSAGES\tREPLAYING\tBYTES\tOLDEST")
			for _, e := range answer.Endpoints {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", e.Endpoint, e.Messages, e.Replaying, e.Bytes, e.Oldest)
			}
			return w.Flush()
		}
		fmt.Fprintln(w, "SEQUENCE\tSOURCE\tFROM\tENQUEUED\tDEAD SINCE\tTIMES\tREASON")
		for _, d := range answer.DeadLetters {
			from := d.Device
			if d.Module != "" {
				from += "/" + d.Module
			}
			reason := d.Reason
			if d.Replay {
				reason = "(waits to be delivered again) " + reason
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", d.Sequence, d.Source, from, d.Enqueued, d.Died, d.Attempts, reason)
		}
		return w.Flush()
	})
}

func deadLettersShow() *cobra.Command {
	c := &cobra.Command{
		Use:     "show ENDPOINT SEQUENCE",
		Short:   "Show one dead letter with its message (always JSON)",
		Example: `  vauban route dead-letters show hook 17`,
		Args:    cobra.ExactArgs(2),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, _ output) error {
		res, err := r.api(c.Context(), http.MethodGet, deadLettersPath+"/"+url.PathEscape(args[0])+"/messages/"+url.PathEscape(args[1]), nil, nil)
		if err != nil {
			return err
		}
		return printAnswer(c, res)
	})
}

// deadLettersChange is a command that does something to some dead letters of an endpoint, or to all.
func deadLettersChange(name, short, method, path, done string) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   name + " ENDPOINT (SEQUENCE... | --all)",
		Short: short,
		Example: fmt.Sprintf(`  vauban route dead-letters %[1]s hook 17 18
  vauban route dead-letters %[1]s hook --all`, name),
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().BoolVar(&all, "all", false, "all dead letters of the endpoint")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if all == (len(args) > 1) {
			return misuse("name dead letters by their sequence, or give --all")
		}
		q := url.Values{"sequence": args[1:]}
		if all {
			q = url.Values{"all": {"true"}}
		}
		res, err := r.api(c.Context(), method, deadLettersPath+"/"+url.PathEscape(args[0])+path, q, nil)
		if err != nil {
			return err
		}
		var answer struct {
			Messages int `json:"messages"`
		}
		if err := readAnswer(res, &answer); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), answer)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%d messages %s\n", answer.Messages, done)
		return err
	})
}
