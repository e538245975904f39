package load

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Answer connects n devices that answer every direct method with status 200 and
// the payload they were sent, until stop is called.
func Answer(ctx context.Context, address string, cfg *tls.Config, t Target, n int) (stop func(), err error) {
	conns, err := Dial(ctx, address, cfg, t, n)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for _, nc := range conns {
		wg.Go(func() { answer(nc) })
	}
	return func() {
		CloseAll(conns)
		wg.Wait()
	}, nil
}

func answer(nc net.Conn) {
	subscribe := wire.AppendSubscribe(nil, 1, []wire.Subscription{{Filter: "$iothub/methods/POST/#"}})
	if _, err := nc.Write(subscribe); err != nil {
		return
	}
	buf := make([]byte, 0, 256<<10)
	for {
		n, err := nc.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return // stop closed the connection, or the server did: the caller's methods fail
		}
		buf = buf[:len(buf)+n]
		rest := buf
		for {
			h, n, err := wire.ParseHeader(rest, cap(buf))
			if err != nil {
				nc.Close()
				return
			}
			if n == 0 || len(rest) < n+h.Length {
				break
			}
			if h.Type == wire.PUBLISH {
				if p, err := wire.ParsePublish(h.Flags, rest[n:n+h.Length]); err == nil {
					if r, err := topic.ParseResponse(string(p.Topic)); err == nil && r.Kind == topic.ResponseMethod {
						reply := wire.Publish{Topic: topic.AppendMethodResult(nil, 200, r.RID), Payload: p.Payload}
						if _, err := nc.Write(wire.AppendPublish(nil, &reply)); err != nil {
							return
						}
					}
				}
			}
			rest = rest[n+h.Length:]
		}
		buf = append(buf[:0], rest...)
	}
}
