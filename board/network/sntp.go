package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ntpEpoch is where NTP's seconds begin, in Unix's (RFC 5905 §6).
const ntpEpoch = -2208988800

// sntpSize is a message without extensions (RFC 4330 §4).
const sntpSize = 48

// Time asks an SNTP server (RFC 4330). The board's own clock is now, a reading of its real-time clock, from which the
// half of the way there and back is taken; a board that does not know the time gives the zero value.
func Time(ctx context.Context, s Stack, server netip.Addr, now func() time.Time) (time.Time, error) {
	c, err := s.Dial(ctx, "udp", netip.AddrPortFrom(server, 123).String())
	if err != nil {
		return time.Time{}, fmt.Errorf("time from %s: %w", server, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	left := now()
	query := make([]byte, sntpSize)
	query[0] = 4<<3 | 3 // version 4, client
	binary.BigEndian.PutUint64(query[40:], FormatNTP(left))
	buf := make([]byte, sntpSize+64)
	for range dnsTries {
		if _, err = c.Write(query); err != nil {
			return time.Time{}, fmt.Errorf("time from %s: %w", server, err)
		}
		c.SetReadDeadline(time.Now().Add(dnsWait))
		var n int
		if n, err = c.Read(buf); err == nil {
			t, err := parseTime(buf[:n], query)
			if err != nil {
				return time.Time{}, fmt.Errorf("time from %s: %w", server, err)
			}
			return t.Add(now().Sub(left) / 2), nil
		}
		if ctx.Err() != nil {
			return time.Time{}, ctx.Err()
		}
	}
	return time.Time{}, fmt.Errorf("the time server %s does not answer: %w", server, err)
}

// parseTime checks an answer as RFC 4330 §5 says, and reads when it was sent.
func parseTime(b, query []byte) (time.Time, error) {
	switch {
	case len(b) < sntpSize:
		return time.Time{}, fmt.Errorf("an answer of %d bytes; want %d", len(b), sntpSize)
	case b[0]&7 != 4 || b[0]>>3&7 == 0:
		return time.Time{}, errors.New("what came is not from a server")
	case string(b[24:32]) != string(query[40:48]):
		return time.Time{}, errors.New("it answered another question")
	case b[1] == 0:
		return time.Time{}, fmt.Errorf("it refuses: %q", b[12:16]) // kiss of death
	case b[0]>>6 == 3 || b[1] > 15:
		return time.Time{}, errors.New("its own clock is not set")
	}
	t := binary.BigEndian.Uint64(b[40:])
	if t == 0 {
		return time.Time{}, errors.New("its own clock is not set")
	}
	return ParseNTP(t), nil
}

// FormatNTP is a moment as NTP writes it; the zero time is 0, unknown.
func FormatNTP(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(uint32(t.Unix()-ntpEpoch))<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// ParseNTP reads a moment. Its era is the one between 1968 and 2104 (RFC 4330 §3).
func ParseNTP(n uint64) time.Time {
	s := int64(n >> 32)
	if s < 1<<31 {
		s += 1 << 32
	}
	return time.Unix(s+ntpEpoch, int64(n&0xFFFFFFFF*uint64(time.Second)>>32)).UTC()
}
