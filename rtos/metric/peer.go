package metric

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxReport bounds the reports that are read.
const (
	maxReport   = 1 << 20
	maxReported = 1000 * time.Hour // of one test
)

var (
	reportTitle = regexp.MustCompile(`^\*{4} Thread-Metric (.+?) Test \*{4} Relative Time: +(\d+)\s*$`)
	reportTotal = regexp.MustCompile(`^Time Period Total: +(\d+)\s*$`)
)

// ParseReport reads what Thread-Metric prints, of any kernel: the reports of one or several tests, of one or several periods each. It answers one
// result for each test, over all its periods. Lines that it does not know are left out; an ERROR makes the test's result worthless, and is one.
func ParseReport(r io.Reader) ([]Result, error) {
	var all []Result
	at := -1           // the test whose total is awaited
	var seconds uint64 // of that period
	last := map[string]uint64{}
	limited := &io.LimitedReader{R: r, N: maxReport + 1}
	lines := bufio.NewScanner(limited)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		switch m := reportTitle.FindStringSubmatch(line); {
		case m != nil:
			at = -1
			for _, t := range tests {
				if t.Title == m[1] {
					at = find(&all, t)
				}
			}
			if at < 0 {
				return nil, fmt.Errorf("line %d: %q is no test of Thread-Metric", n, m[1])
			}
			relative, err := strconv.ParseUint(m[2], 10, 32)
			before := last[m[1]]
			if relative <= before {
				before = 0 // it was started anew
			}
			if err != nil || relative == before || relative > uint64(maxReported/time.Second) {
				return nil, fmt.Errorf("line %d: a relative time of %s seconds is no end of a period", n, m[2])
			}
			seconds, last[m[1]] = relative-before, relative
		case strings.HasPrefix(line, "ERROR"):
			return nil, fmt.Errorf("line %d: the test failed there: %s", n, line)
		case at >= 0:
			if m := reportTotal.FindStringSubmatch(line); m != nil {
				total, err := strconv.ParseUint(m[1], 10, 63)
				if err != nil || total == 0 {
					return nil, fmt.Errorf("line %d: a total of %s is not usable", n, m[1])
				}
				all[at].Total += total
				all[at].Period += time.Duration(seconds) * time.Second
				if all[at].Total > 1<<62 || all[at].Period > maxReported {
					return nil, fmt.Errorf("line %d: that is more than the work of %v", n, maxReported)
				}
				at = -1
			}
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case limited.N == 0:
		return nil, fmt.Errorf("more than %d bytes", maxReport)
	}
	kept := all[:0]
	for _, r := range all {
		if r.Total != 0 {
			kept = append(kept, r)
		}
	}
	if len(kept) == 0 {
		return nil, fmt.Errorf("there is no report of Thread-Metric in it (lines such as \"Time Period Total:  1234\")")
	}
	return kept, nil
}

func find(all *[]Result, t Test) int {
	for i := range *all {
		if (*all)[i].Test == t.Name {
			return i
		}
	}
	*all = append(*all, Result{Test: t.Name, Title: t.Title})
	return len(*all) - 1
}
