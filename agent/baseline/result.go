package baseline

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"
)

// Report is the outcome of a scan.
type Report struct {
	Baseline, Orig string
	Time           time.Time
	Error          string // what kept a part of it from being run; empty: nothing
	Results        []Result
}

// Result is how one audit ended.
type Result struct {
	Audit   *Audit
	Outcome Outcome
	Text    string // why, for people; never contents of files
}

// document is the v1 scanner's form (defender §3.4), with its members in its order.
type document struct {
	BaselineID   string           `json:"baseline_id"`
	BaseOrigID   string           `json:"base_orig_id"`
	SettingCount int              `json:"setting_count"`
	ScanTime     string           `json:"scan_time"`
	Error        string           `json:"error"`
	Results      []documentResult `json:"results"`
}

type documentResult struct {
	MSID        string `json:"msid"`
	Result      string `json:"result"`
	ErrorText   string `json:"error_text"`
	CCEID       string `json:"cceid"`
	Severity    string `json:"severity"`
	Description string `json:"description"`
	RuleID      string `json:"ruleId"`
}

// MarshalJSON writes a report as the v1 agents' scanner does.
func (r *Report) MarshalJSON() ([]byte, error) {
	d := document{BaselineID: r.Baseline, BaseOrigID: r.Orig, SettingCount: len(r.Results), ScanTime: scanTime(r.Time), Error: r.Error, Results: []documentResult{}}
	for _, res := range r.Results {
		a := res.Audit
		cce := a.CCE
		if cce == "" {
			cce = a.ID // v1 agents know checks by nothing else
		}
		d.Results = append(d.Results, documentResult{a.Number, res.Outcome.ScannerWord(), res.Text, cce, a.Severity, a.Description, a.RuleID})
	}
	return json.Marshal(d)
}

// Summary counts the results of a scan. Skipped and missing ones count nowhere; those that ended with an error count as
// failed, as with the v1 scanner.
type Summary struct {
	Assessed      int `json:"assessed"`
	Passed        int `json:"passed"`
	Critical      int `json:"criticalFailed"` // of severity Critical and Important
	Warning       int `json:"warningFailed"`
	Informational int `json:"informationalFailed"`
	Percent       int `json:"percentPassed"` // of Assessed, rounded; 0 when nothing was assessed
}

// Summary counts the results.
func (r *Report) Summary() Summary {
	var s Summary
	for _, res := range r.Results {
		switch res.Outcome {
		case Missing, NotApplicable:
			continue
		case Pass:
			s.Passed++
		default:
			switch res.Audit.Severity {
			case critical, important:
				s.Critical++
			case warning:
				s.Warning++
			default:
				s.Informational++
			}
		}
		s.Assessed++
	}
	if s.Assessed > 0 {
		s.Percent = (200*s.Passed + s.Assessed) / (2 * s.Assessed) // halves up
	}
	return s
}

// ruleID is the GUID of an audit of ours: made of its name, so that it stays the same.
func ruleID(name string) string {
	h := sha256.Sum256([]byte("vauban baseline rule\x00" + name))
	h[6] = h[6]&0x0f | 0x80 // version 8: made by a way of our own (RFC 9562)
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
