package service

import (
	"encoding/binary"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

// Clock is an SNTP server (RFC 4330).
type Clock struct {
	Now func() time.Time // required. The zero time: the clock is not set, and clients are told so
}

// Answer is what the server says to a request; nil to what is none.
func (c Clock) Answer(request []byte) []byte {
	if len(request) < 48 || request[0]&7 != 3 || request[0]>>3&7 == 0 {
		return nil
	}
	now := c.Now()
	b := make([]byte, 48)
	b[0] = request[0]&(7<<3) | 4 // their version, server
	b[1], b[2], b[3] = 1, request[2], 0xEC
	copy(b[12:], "LOCL")
	if now.IsZero() {
		b[0] |= 3 << 6
		b[1] = 16
		copy(b[12:], "INIT")
	}
	t := network.FormatNTP(now)
	binary.BigEndian.PutUint64(b[16:], t)
	copy(b[24:32], request[40:48])
	binary.BigEndian.PutUint64(b[32:], t)
	binary.BigEndian.PutUint64(b[40:], t)
	return b
}
