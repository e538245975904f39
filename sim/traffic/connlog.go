package traffic

import (
	"net/netip"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/wire/connlog"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Records are the flows of a window as Zeek would log them, for a labelled conn.log: a connection for each, within the window. What a board tells
// of them is the window again (defender §6.3).
func (w *Window) Records() []connlog.Record {
	all := make([]connlog.Record, 0, len(w.Flows))
	for i := range w.Flows {
		f := &w.Flows[i]
		r := connlog.Record{
			Start: w.Start.Add(time.Duration(i) * time.Millisecond), UID: "C" + w.id(10 + i)[:16], Orig: f.Local, Resp: f.Remote, Protocol: strings.ToLower(f.Protocol),
			State: "SF", Malicious: w.Labels[i] != "", Label: string(w.Labels[i]),
		}
		r.OrigPackets, r.OrigIPBytes = packets(f.BytesOut, f.Remote.Addr())
		r.RespPackets, r.RespIPBytes = packets(f.BytesIn, f.Remote.Addr())
		if came(f) {
			r.Orig, r.Resp = r.Resp, r.Orig
			r.OrigPackets, r.OrigIPBytes, r.RespPackets, r.RespIPBytes = r.RespPackets, r.RespIPBytes, r.OrigPackets, r.OrigIPBytes
		}
		all = append(all, r)
	}
	return all
}

// came reports whether the remote began.
func came(f *secmsg.Flow) bool {
	return f.Local.Port() < 32768 && f.Remote.Port() >= 32768 && f.BytesIn > 0
}

// packets are how many it takes, and their size with IP headers.
func packets(payload uint64, a netip.Addr) (n, bytes uint64) {
	if payload == 0 {
		return 0, 0
	}
	n = (payload + 1459) / 1460
	header := uint64(20)
	if a.Is6() {
		header = 40
	}
	return n, payload + n*header
}
