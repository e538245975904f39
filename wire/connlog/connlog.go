// Package connlog reads logs of connections: Zeek's conn.log, the labelled ones of the IoT-23 set, and the CSV of the TON_IoT set (defender §6.1). It
// writes the labelled form.
//
// A [Reader] tells the forms apart by their first line. In IoT-23 the last three columns are separated by spaces, not tabs; a dash
// is a value that is not there; the case of labels differs between files. A line that cannot be read is a [*LineError], after which reading goes
// on; a line is at most [MaxLine] bytes.
package connlog

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// MaxLine is the longest line that is read.
const MaxLine = 64 << 10

// Record is one connection. Zero values are those that a log does not say.
type Record struct {
	Start        time.Time
	UID          string
	Orig, Resp   netip.AddrPort // of ICMP without ports
	Protocol     string         // tcp, udp, icmp, in lower case
	Service      string
	Duration     time.Duration
	State        string
	OrigPackets  uint64
	OrigIPBytes  uint64 // with IP headers
	RespPackets  uint64
	RespIPBytes  uint64
	Malicious    bool
	Label        string // what it is, in lower case; empty: benign, or not said
	OrigPayload  uint64 // bytes without headers
	RespPayload  uint64
	TunnelParent string
}

// Bytes are the sizes of what went either way as boards count them: the IP payload (defender §6.3).
func (r *Record) Bytes() (orig, resp uint64) {
	header := uint64(20)
	if r.Orig.Addr().Is6() {
		header = 40
	}
	return without(r.OrigIPBytes, r.OrigPackets, header), without(r.RespIPBytes, r.RespPackets, header)
}

func without(bytes, packets, header uint64) uint64 {
	if packets > bytes/header {
		return 0
	}
	return bytes - packets*header
}

// LineError is a line that cannot be read. The reader goes on behind it.
type LineError struct {
	Line   int
	Reason string
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// ErrForm is returned for what is no log of connections.
var ErrForm = errors.New("connlog: neither Zeek's conn.log, which begins with #separator or #fields, nor a CSV with the columns src_ip, dst_ip and ts")

// Reader reads records.
type Reader struct {
	in       *bufio.Reader
	line     int
	columns  map[string]int
	count    int // of columns
	csv      bool
	sep      string
	unset    string
	labelled bool
}

// NewReader reads the head of a log; the error is ErrForm or one of r.
func NewReader(r io.Reader) (*Reader, error) {
	l := &Reader{in: bufio.NewReaderSize(r, MaxLine), sep: "\t", unset: "-"}
	first, err := l.in.Peek(1)
	if errors.Is(err, io.EOF) {
		return nil, ErrForm
	}
	if err != nil {
		return nil, err
	}
	if first[0] == '#' {
		return l, nil // fields come with the lines
	}
	text, err := l.next()
	if err != nil {
		if _, ok := errors.AsType[*LineError](err); ok || errors.Is(err, io.EOF) {
			return nil, ErrForm
		}
		return nil, err
	}
	l.csv = true
	l.fields(strings.Split(strings.ToLower(strings.TrimPrefix(text, "\ufeff")), ","))
	for _, name := range []string{"src_ip", "dst_ip", "ts"} {
		if _, ok := l.columns[name]; !ok {
			return nil, ErrForm
		}
	}
	_, label := l.columns["label"]
	_, kind := l.columns["type"]
	l.labelled = label || kind
	return l, nil
}

// Labelled reports whether the log says what is malicious. Of Zeek's it is known after the first record.
func (l *Reader) Labelled() bool { return l.labelled }

// Lines is how many were read.
func (l *Reader) Lines() int { return l.line }

func (l *Reader) fields(names []string) {
	l.columns = make(map[string]int, len(names))
	for i, n := range names {
		l.columns[strings.TrimSpace(n)] = i
	}
	l.count = len(names)
}

// next is a line without its end.
func (l *Reader) next() (string, error) {
	l.line++
	text, err := l.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.in.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return "", &LineError{l.line, fmt.Sprintf("it is longer than %d bytes", MaxLine)}
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(text) == 0) {
		l.line--
		return "", err
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// Next returns the next record; io.EOF at the end, and a *LineError for a line that cannot be read.
func (l *Reader) Next() (Record, error) {
	for {
		text, err := l.next()
		if err != nil {
			return Record{}, err
		}
		switch {
		case text == "":
			continue
		case l.csv:
			return l.row(text)
		case text[0] == '#':
			if err := l.directive(text); err != nil {
				return Record{}, err
			}
			continue
		case l.columns == nil:
			return Record{}, &LineError{l.line, "it comes before #fields"}
		}
		return l.zeek(text)
	}
}

// directive reads a line of the head, which may come again in the middle of files that were put together.
func (l *Reader) directive(text string) error {
	if s, ok := strings.CutPrefix(text, "#separator "); ok {
		hex, ok := strings.CutPrefix(strings.TrimSpace(s), `\x`)
		b, err := strconv.ParseUint(hex, 16, 8)
		if !ok || err != nil {
			return &LineError{l.line, "the separator is not of the form \\x09"}
		}
		l.sep = string([]byte{byte(b)})
		return nil
	}
	name, value, _ := strings.Cut(text, l.sep)
	switch name {
	case "#unset_field":
		l.unset = value
	case "#fields":
		names := split(value, l.sep)
		l.fields(names)
		_, l.labelled = l.columns["label"]
	}
	return nil
}

// split is by separators and, in the last column, by spaces.
func split(text, sep string) []string {
	parts := strings.Split(text, sep)
	last := parts[len(parts)-1]
	if sep != " " && strings.Contains(last, " ") {
		return append(parts[:len(parts)-1], strings.Fields(last)...)
	}
	return parts
}

// columnsOf reads one line's values.
type columnsOf struct {
	l      *Reader
	values []string
	err    error
}

func (c *columnsOf) text(name string) string {
	i, ok := c.l.columns[name]
	if !ok || i >= len(c.values) {
		return ""
	}
	v := strings.TrimSpace(c.values[i])
	if v == c.l.unset || v == "(empty)" {
		return ""
	}
	return v
}

func (c *columnsOf) fail(name, what string) {
	if c.err == nil {
		c.err = &LineError{c.l.line, fmt.Sprintf("%s is no %s", name, what)}
	}
}

func (c *columnsOf) number(name string) uint64 {
	v := c.text(name)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		f, ferr := strconv.ParseFloat(v, 64) // some tools write counts so
		if ferr != nil || f < 0 || f > 1<<62 || math.IsNaN(f) {
			c.fail(name, "number")
			return 0
		}
		n = uint64(f)
	}
	return n
}

// maxDuration is longer than any capture.
const maxDuration = 10 * 366 * 24 * time.Hour

func (c *columnsOf) seconds(name string, most float64) float64 {
	v := c.text(name)
	if v == "" {
		return 0
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= 0 && f <= most) {
		c.fail(name, "time")
		return 0
	}
	return f
}

func (c *columnsOf) address(name, port string, ports bool) netip.AddrPort {
	a, err := netip.ParseAddr(c.text(name))
	if err != nil {
		c.fail(name, "address")
		return netip.AddrPort{}
	}
	if !ports {
		return netip.AddrPortFrom(a.Unmap().WithZone(""), 0)
	}
	p := c.number(port)
	if p > math.MaxUint16 {
		c.fail(port, "port")
	}
	return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(p))
}

func (c *columnsOf) record(names [10]string) Record {
	var r Record
	r.Protocol = strings.ToLower(c.text("proto"))
	if r.Protocol == "" || len(r.Protocol) > 16 {
		c.fail("proto", "protocol")
	}
	if strings.HasPrefix(r.Protocol, "icmp") {
		r.Protocol = "icmp"
	}
	ts := c.seconds("ts", 1<<32)
	if ts == 0 {
		c.fail("ts", "time")
	}
	r.Start = time.UnixMicro(int64(ts * 1e6)).UTC()
	ports := r.Protocol != "icmp"
	r.Orig, r.Resp = c.address(names[0], names[1], ports), c.address(names[2], names[3], ports)
	r.Duration = time.Duration(c.seconds("duration", maxDuration.Seconds()) * float64(time.Second))
	r.Service, r.State, r.UID = c.text("service"), c.text("conn_state"), c.text("uid")
	r.OrigPayload, r.RespPayload = c.number(names[4]), c.number(names[5])
	r.OrigPackets, r.OrigIPBytes = c.number(names[6]), c.number(names[7])
	r.RespPackets, r.RespIPBytes = c.number(names[8]), c.number(names[9])
	return r
}

var (
	zeekNames = [10]string{"id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "orig_bytes", "resp_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes"}
	tonNames  = [10]string{"src_ip", "src_port", "dst_ip", "dst_port", "src_bytes", "dst_bytes", "src_pkts", "src_ip_bytes", "dst_pkts", "dst_ip_bytes"}
)

func (l *Reader) zeek(text string) (Record, error) {
	c := columnsOf{l: l, values: split(text, l.sep)}
	if len(c.values) < l.count {
		return Record{}, &LineError{l.line, fmt.Sprintf("it has %d columns, not %d", len(c.values), l.count)}
	}
	r := c.record(zeekNames)
	r.TunnelParent = c.text("tunnel_parents")
	if l.labelled {
		label, detail := strings.ToLower(c.text("label")), strings.ToLower(c.text("detailed-label"))
		if i, ok := l.columns["detailed-label"]; ok && i+1 < len(c.values) { // a label of several words
			detail = strings.ToLower(strings.Join(c.values[i:], " "))
		}
		switch {
		case strings.HasPrefix(label, "malicious"):
			r.Malicious = true
			if r.Label = detail; detail == "" {
				r.Label = "malicious"
			}
		case label == "" || strings.HasPrefix(label, "benign"), label == "background", label == "normal":
		default:
			r.Malicious, r.Label = true, label
		}
	}
	return r, c.err
}

func (l *Reader) row(text string) (Record, error) {
	values := strings.Split(text, ",")
	if strings.Contains(text, `"`) {
		var err error
		if values, err = csv.NewReader(strings.NewReader(text)).Read(); err != nil {
			return Record{}, &LineError{l.line, "its quotes do not match"}
		}
	}
	if len(values) != l.count {
		return Record{}, &LineError{l.line, fmt.Sprintf("it has %d columns, not %d", len(values), l.count)}
	}
	c := columnsOf{l: l, values: values}
	r := c.record(tonNames)
	kind := strings.ToLower(c.text("type"))
	switch label := c.text("label"); {
	case kind != "":
		r.Malicious = kind != "normal"
	default:
		r.Malicious = label != "" && label != "0"
		kind = "attack"
	}
	if r.Malicious {
		r.Label = kind
	}
	return r, c.err
}

// head is that of the labelled files of IoT-23.
const head = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n" +
	"#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\tlocal_orig\tlocal_resp\tmissed_bytes\thistory\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\ttunnel_parents   label   detailed-label\n" +
	"#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring\tinterval\tcount\tcount\tstring\tbool\tbool\tcount\tstring\tcount\tcount\tcount\tcount\tset[string]   string   string\n"

// AppendHead appends the head of a labelled conn.log.
func AppendHead(dst []byte) []byte { return append(dst, head...) }

// Append appends a record as a line of a labelled conn.log.
func Append(dst []byte, r *Record) []byte {
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return strings.Join(strings.Fields(s), "_")
	}
	label, detail := "Benign", "-"
	if r.Malicious {
		label = "Malicious"
		if r.Label != "malicious" {
			detail = or(r.Label)
		}
	}
	return fmt.Appendf(dst, "%d.%06d\t%s\t%s\t%d\t%s\t%d\t%s\t%s\t%.6f\t%d\t%d\t%s\t-\t-\t0\t-\t%d\t%d\t%d\t%d\t%s   %s   %s\n",
		r.Start.Unix(), r.Start.Nanosecond()/1000, or(r.UID), r.Orig.Addr(), r.Orig.Port(), r.Resp.Addr(), r.Resp.Port(), or(r.Protocol), or(r.Service), r.Duration.Seconds(),
		r.OrigPayload, r.RespPayload, or(r.State), r.OrigPackets, r.OrigIPBytes, r.RespPackets, r.RespIPBytes, or(r.TunnelParent), label, detail)
}
