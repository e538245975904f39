package format

import (
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/defender/intel"
)

// readIPRep reads Suricata's reputation lists: address or prefix, number of a category, score from 1 to 127. The score becomes the confidence.
func readIPRep(r io.Reader, b *intel.Builder) error {
	return intel.Lines(r, func(n int, line []byte, long bool) {
		text := strings.TrimSpace(string(line))
		if long && !strings.HasPrefix(text, "#") {
			b.Bad(n, text, "the line is longer than 4 KiB")
			return
		}
		if text == "" || strings.HasPrefix(text, "#") {
			return
		}
		fields := strings.Split(text, ",")
		if len(fields) != 3 {
			b.Bad(n, text, "not address,category,score")
			return
		}
		category, err1 := strconv.Atoi(strings.TrimSpace(fields[1]))
		score, err2 := strconv.Atoi(strings.TrimSpace(fields[2]))
		if err1 != nil || err2 != nil || category < 0 || category > 59 || score < 0 || score > 127 {
			b.Bad(n, text, "a category is a number up to 59, a score one up to 127")
			return
		}
		if score == 0 {
			b.Unsure++ // no reputation: a place holder
			return
		}
		add(b, fields[0], intel.Item{Line: n, Confidence: max(1, score*100/127), Labels: []string{"category " + strconv.Itoa(category)}})
	})
}

// readZeek reads the tab-separated files of Zeek's intel framework, whose #fields line names the columns.
func readZeek(r io.Reader, b *intel.Builder) error {
	value, kind := -1, -1
	var labels []int
	err := intel.Lines(r, func(n int, line []byte, long bool) {
		text := string(line)
		if fields, ok := strings.CutPrefix(text, "#fields"); ok {
			names := strings.Split(strings.TrimLeft(fields, " \t"), "\t")
			value, kind, labels = slices.Index(names, "indicator"), slices.Index(names, "indicator_type"), nil
			for i, name := range names {
				if name == "meta.source" || name == "meta.desc" {
					labels = append(labels, i)
				}
			}
			return
		}
		if strings.TrimSpace(text) == "" || strings.HasPrefix(text, "#") {
			return
		}
		if value < 0 || kind < 0 {
			b.Bad(n, text, "no #fields line with indicator and indicator_type comes before it")
			return
		}
		fields := strings.Split(text, "\t")
		if long || len(fields) <= max(value, kind) {
			b.Bad(n, text, "a field is missing")
			return
		}
		it := intel.Item{Line: n}
		for _, i := range labels {
			if i < len(fields) && fields[i] != "-" && fields[i] != "(empty)" {
				it.Labels = append(it.Labels, fields[i])
			}
		}
		switch v := fields[value]; fields[kind] {
		case "Intel::ADDR", "Intel::SUBNET", "Intel::DOMAIN":
			add(b, v, it)
		case "Intel::URL":
			if !strings.Contains(v, "://") {
				v = "http://" + v // Zeek writes them without a scheme
				if host, _, _ := strings.Cut(strings.TrimPrefix(v, "http://"), "/"); !strings.Contains(host, ":") {
					// Neither is the port known, then.
					add(b, host, it)
					return
				}
			}
			add(b, v, it)
		default:
			b.Unsupported++
		}
	})
	return err
}

// readWarningList reads a list of MISP's warning lists. What is matched by substrings or patterns cannot be compared with addresses, and is
// counted as unsupported.
func readWarningList(r io.Reader, b *intel.Builder) error {
	isJSON, r, err := peek(r)
	if err != nil {
		return err
	}
	if !isJSON {
		return intel.ReadList(r, b)
	}
	n := 0
	return elements(r, []string{"list"}, func(raw json.RawMessage) error {
		n++
		var text string
		if json.Unmarshal(raw, &text) != nil {
			b.Bad(n, string(raw), "not a text")
			return nil
		}
		if it, reason := intel.ParseValue(strings.TrimPrefix(text, ".")); reason == "" {
			it.Line = n
			if reason = b.Add(&it); reason == "" {
				return nil
			}
		} else if _, err := netip.ParsePrefix(text); err == nil {
			b.Bad(n, text, reason)
			return nil
		}
		b.Unsupported++
		return nil
	})
}
