package connlog

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func all(t testing.TB, text string) (rs []Record, broken []string, r *Reader) {
	t.Helper()
	r, err := NewReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rs, broken, r
		}
		if e, ok := errors.AsType[*LineError](err); ok {
			broken = append(broken, e.Error())
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, rec)
	}
}

// Two lines in the form of IoT-23, between some that are not whole.
const iot23 = head + "#open\t2019-03-15-14-50-49\n" +
	"1545403816.962094\tCrDn63WjJEmrWGjqf\t192.168.1.195\t41040\t185.244.25.235\t80\ttcp\t-\t3.139211\t0\t0\tS0\t-\t-\t0\tS\t3\t180\t0\t0\t-   Benign   -\n" +
	"1545403824.181240\tCY9lJW3gh1Eje4usP6\t192.168.1.195\t41040\n" +
	"1545404203.848110\tCk2Kbm\t192.168.1.195\t60836\t147.231.100.5\t23\ttcp\tirc\t-\t-\t-\tS3\t-\t-\t0\tShA\t5\t300\t2\t112\t(empty)   malicious   PartOfAHorizontalPortScan\n" +
	"yesterday\tCk2Kbm\t192.168.1.195\t60836\t147.231.100.5\t23\ttcp\tirc\t-\t-\t-\tS3\t-\t-\t0\tShA\t5\t300\t2\t112\t-   Malicious   C&C\n" +
	"1545404204.5\tC3\tfe80::1\t134\tff02::1\t0\ticmp\t-\t-\t-\t-\tOTH\t-\t-\t0\t-\t1\t64\t0\t0\t-   Malicious   -\n" +
	"#close\t2019-03-15-14-50-49\n"

func TestReader_IoT23(t *testing.T) {
	t.Parallel()
	got, broken, r := all(t, iot23)
	want := []Record{
		{Start: time.UnixMicro(1545403816962094).UTC(), UID: "CrDn63WjJEmrWGjqf", Orig: netip.MustParseAddrPort("192.168.1.195:41040"), Resp: netip.MustParseAddrPort("185.244.25.235:80"),
			Protocol: "tcp", Duration: 3139211 * time.Microsecond, State: "S0", OrigPackets: 3, OrigIPBytes: 180},
		{Start: time.UnixMicro(1545404203848110).UTC(), UID: "Ck2Kbm", Orig: netip.MustParseAddrPort("192.168.1.195:60836"), Resp: netip.MustParseAddrPort("147.231.100.5:23"),
			Protocol: "tcp", Service: "irc", State: "S3", OrigPackets: 5, OrigIPBytes: 300, RespPackets: 2, RespIPBytes: 112, Malicious: true, Label: "partofahorizontalportscan"},
		{Start: time.UnixMicro(1545404204500000).UTC(), UID: "C3", Orig: netip.MustParseAddrPort("[fe80::1]:0"), Resp: netip.MustParseAddrPort("[ff02::1]:0"),
			Protocol: "icmp", State: "OTH", OrigPackets: 1, OrigIPBytes: 64, Malicious: true, Label: "malicious"},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Error(d)
	}
	if len(broken) != 2 || !strings.Contains(broken[0], "line 10: it has 4 columns, not 23") || !strings.Contains(broken[1], "line 12: ts is no time") {
		t.Errorf("broken lines: %q", broken)
	}
	if !r.Labelled() {
		t.Error("the log is labelled")
	}
	if out, in := got[1].Bytes(); out != 200 || in != 72 {
		t.Errorf("payload of IPv4: %d out, %d in; want 200 and 72", out, in)
	}
	if out, in := got[2].Bytes(); out != 24 || in != 0 {
		t.Errorf("payload of IPv6: %d out, %d in; want 24 and 0", out, in)
	}
}

func TestReader_TON(t *testing.T) {
	t.Parallel()
	const text = "ts,src_ip,src_port,dst_ip,dst_port,proto,service,duration,src_bytes,dst_bytes,conn_state,missed_bytes,src_pkts,src_ip_bytes,dst_pkts,dst_ip_bytes,dns_query,label,type\n" +
		"1554198358,3.122.49.24,1883,192.168.1.152,52976,tcp,-,80549.53026,1762852,41933215,OTH,0,252181,14911156,2,236,-,0,normal\n" +
		"1556436870,192.168.1.31,4444,192.168.1.193,49180,tcp,-,0.1,0,0,REJ,0,1,44,1,40,-,1,scanning\r\n" +
		"1556436871,192.168.1.31,4444,192.168.1.193,49180,tcp,-,0.1,0,0,REJ,0,1,44,1,40,\"a,b\",1,password\n" +
		"1556436872,nowhere,4444,192.168.1.193,49180,tcp,-,0.1,0,0,REJ,0,1,44,1,40,-,1,scanning\n" +
		"1556436872,192.168.1.31,4444\n" +
		"1556436872,192.168.1.31,4444,192.168.1.193,70000,tcp,-,0.1,0,0,REJ,0,1,44,1,40,-,1,scanning"
	got, broken, r := all(t, text)
	if len(got) != 3 || got[0].Malicious || got[1].Label != "scanning" || got[2].Label != "password" || !r.Labelled() {
		t.Errorf("%+v", got)
	}
	if got[0].Duration.Round(time.Second) != 80550*time.Second || got[0].RespIPBytes != 236 {
		t.Errorf("%+v", got[0])
	}
	if len(broken) != 3 {
		t.Errorf("broken lines: %q", broken)
	}
}

func TestReader_Plain(t *testing.T) {
	t.Parallel()
	text := "#separator \\x09\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\n" +
		"1545403816.5\t10.0.0.1\t5000\t192.0.2.1\t53\tudp\t1\t70\t1\t120\n" + strings.Repeat("x", MaxLine+10) + "\n1545403817\t10.0.0.1\t5000\t192.0.2.1\t53\tudp\t1\t70\t1\t120"
	got, broken, r := all(t, text)
	if len(got) != 2 || len(broken) != 1 || r.Labelled() || r.Lines() != 5 {
		t.Errorf("%d records, broken %q, labelled %t, %d lines", len(got), broken, r.Labelled(), r.Lines())
	}
}

func TestNewReader_Refuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "{\"ts\": 1}\n", "a,b,c\n1,2,3\n", strings.Repeat("y", 2*MaxLine)} {
		if _, err := NewReader(strings.NewReader(text)); !errors.Is(err, ErrForm) {
			t.Errorf("%.20q: %v, want ErrForm", text, err)
		}
	}
}

// What is read, written and read again is the same, and no input does harm.
func FuzzReader(f *testing.F) {
	f.Add([]byte(iot23))
	f.Add([]byte("ts,src_ip,src_port,dst_ip,dst_port,proto,label,type\n1,1.2.3.4,1,1.2.3.5,2,udp,1,ddos\n"))
	f.Add([]byte("#separator \\x2c\n#fields,ts,id.orig_h,id.resp_h,proto\n5,::1,::2,tcp\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		for {
			rec, err := r.Next()
			if _, ok := errors.AsType[*LineError](err); ok {
				continue
			}
			if err != nil {
				return
			}
			line := Append(AppendHead(nil), &rec)
			again, err := NewReader(bytes.NewReader(line))
			if err != nil {
				t.Fatal(err)
			}
			back, err := again.Next()
			if err != nil {
				t.Fatalf("%v of %q from %+v", err, line, rec)
			}
			if !back.Start.Equal(rec.Start) || back.Orig != rec.Orig || back.Resp != rec.Resp || back.Malicious != rec.Malicious || back.RespIPBytes != rec.RespIPBytes ||
				(back.Duration-rec.Duration).Abs() > 10*time.Microsecond {
				t.Fatalf("%+v came back as %+v", rec, back)
			}
		}
	})
}
