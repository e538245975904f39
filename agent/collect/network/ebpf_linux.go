package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// The key of a counter, and its value. Ports are in network order.
const (
	keyLocal      = 0
	keyRemote     = 16
	keyLocalPort  = 32
	keyRemotePort = 34
	keyProtocol   = 36 // of IP
	keyFamily     = 37 // 4 or 6
	keyDevice     = 40
	keySize       = 48

	valueIn    = 0
	valueOut   = 8
	valueBegan = 16 // 1: the first packet went out; 2: it came in
	valueSize  = 24

	maxFlows = 8192 // of the least recently used, the kernel forgets the eldest
)

// packetCounter is a socket that gets every packet, and a program that counts it and drops the socket's copy: nothing leaves the kernel
// but the counters.
type packetCounter struct {
	flows   *ebpf.Map
	program *ebpf.Program
	fd      int
}

func openEBPF() (counter, error) {
	_ = rlimit.RemoveMemlock() // kernels before 5.11 charge maps to it; without the right to, those below say so
	c := &packetCounter{fd: -1}
	var err error
	if c.flows, err = ebpf.NewMap(&ebpf.MapSpec{Name: "vauban_flows", Type: ebpf.LRUHash, KeySize: keySize, ValueSize: valueSize, MaxEntries: maxFlows}); err != nil {
		return nil, err
	}
	if c.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "vauban_packet", Type: ebpf.SocketFilter, License: "Dual MIT/GPL", Instructions: packetProgram(c.flows.FD()),
	}); err != nil {
		c.close()
		return nil, err
	}
	// No protocol: it gets nothing until the program stands before it.
	if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		c.close()
		return nil, fmt.Errorf("a packet socket: %w", err)
	}
	if err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, c.program.FD()); err != nil {
		c.close()
		return nil, fmt.Errorf("the program on a packet socket: %w", err)
	}
	if err = unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: network16(unix.ETH_P_ALL)}); err != nil {
		c.close()
		return nil, fmt.Errorf("a packet socket: %w", err)
	}
	return c, nil
}

// network16 is v as the kernel sees its bytes in network order.
func network16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (c *packetCounter) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
	if c.program != nil {
		c.program.Close()
	}
	c.flows.Close()
}

func (c *packetCounter) read() ([]count, error) {
	var counts []count
	keys, values := make([][keySize]byte, 512), make([][valueSize]byte, 512)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := c.flows.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if c, ok := parseCount(keys[i], values[i]); ok {
				counts = append(counts, c)
			}
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist): // the end
			return counts, nil
		case errors.Is(err, ebpf.ErrNotSupported): // kernels before 5.6
			return c.each()
		case err != nil:
			return nil, err
		case len(counts) > 2*maxFlows:
			return counts, nil // the map changes faster than it is read
		}
	}
}

func (c *packetCounter) each() (counts []count, err error) {
	var key [keySize]byte
	var value [valueSize]byte
	for it := c.flows.Iterate(); it.Next(&key, &value); {
		if c, ok := parseCount(key, value); ok {
			counts = append(counts, c)
		}
	}
	return counts, nil // an iteration that was overtaken misses some; the next one has them
}

// parseCount reads an entry of the map.
func parseCount(k [keySize]byte, v [valueSize]byte) (count, bool) {
	c := count{in: binary.NativeEndian.Uint64(v[valueIn:]), out: binary.NativeEndian.Uint64(v[valueOut:]), device: binary.NativeEndian.Uint32(k[keyDevice:])}
	switch k[keyProtocol] {
	case unix.IPPROTO_TCP:
		c.protocol = "TCP"
	case unix.IPPROTO_UDP:
		c.protocol = "UDP"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		c.protocol = "ICMP"
	default:
		return count{}, false
	}
	c.began = secmsg.In
	if binary.NativeEndian.Uint64(v[valueBegan:]) == 1 {
		c.began = secmsg.Out
	}
	n := 16
	if k[keyFamily] == 4 {
		n = 4
	}
	local, _ := netip.AddrFromSlice(k[keyLocal:][:n])
	remote, _ := netip.AddrFromSlice(k[keyRemote:][:n])
	c.local = netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(k[keyLocalPort:]))
	c.remote = netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(k[keyRemotePort:]))
	return c, true
}

// packetProgram counts a packet by its connection. R6 is the packet, R7 the length of its IP header, R8 its protocol, R9 is 1 when it
// goes out.
func packetProgram(flows int) asm.Instructions {
	const ( // the packet's description, struct __sk_buff
		skbType, skbProtocol, skbDevice = 4, 16, 40
		host, outgoing                  = 0, 4
	)
	const lastEcho = 129 // type of ICMPv6
	const (              // on the stack, below the frame pointer
		key    = -keySize
		value  = key - valueSize
		length = value - 8  // of what follows the IP header
		ports  = length - 8 // two of them
		header = ports - 40 // of IP
	)
	var p asm.Instructions
	add := func(is ...asm.Instruction) { p = append(p, is...) }
	// load copies n bytes at the offset in R2, from the IP header on.
	load := func(to, n int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to),
			asm.Mov.Imm(asm.R4, n),
			asm.Mov.Imm(asm.R5, 1), // BPF_HDR_START_NET
			asm.FnSkbLoadBytesRelative.Call(),
			asm.JNE.Imm(asm.R0, 0, "end"),
		}
	}
	add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R0, 0),
	)
	for at := int16(key); at < 0; at += 8 {
		add(asm.StoreMem(asm.RFP, at, asm.R0, asm.DWord))
	}
	add(
		asm.StoreMem(asm.RFP, ports, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, value+valueIn, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, value+valueOut, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, skbType, asm.Word),
		asm.Mov.Imm(asm.R9, 0),
		asm.JEq.Imm(asm.R1, host, "ours"),
		asm.Mov.Imm(asm.R9, 1),
		asm.JNE.Imm(asm.R1, outgoing, "end"), // to all, or to others
		asm.LoadMem(asm.R1, asm.R6, skbDevice, asm.Word).WithSymbol("ours"),
		asm.StoreMem(asm.RFP, key+keyDevice, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word),
		asm.JEq.Imm(asm.R1, int32(network16(unix.ETH_P_IP)), "v4"),
		asm.JNE.Imm(asm.R1, int32(network16(unix.ETH_P_IPV6)), "end"),

		asm.Mov.Imm(asm.R2, 0),
	)
	add(load(header, 40)...)
	add(
		asm.Mov.Imm(asm.R7, 40),
		asm.LoadMem(asm.R8, asm.RFP, header+6, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, header+4, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, length, asm.R1, asm.DWord),
		asm.StoreImm(asm.RFP, key+keyFamily, 6, asm.Byte),
		asm.JEq.Imm(asm.R9, 1, "out6"),
	)
	for i := range int16(4) { // it comes in: the source is remote
		add(
			asm.LoadMem(asm.R1, asm.RFP, header+8+4*i, asm.Word), asm.StoreMem(asm.RFP, key+keyRemote+4*i, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.RFP, header+24+4*i, asm.Word), asm.StoreMem(asm.RFP, key+keyLocal+4*i, asm.R1, asm.Word),
		)
	}
	add(asm.Ja.Label("protocol"))
	for i := range int16(4) {
		load := asm.LoadMem(asm.R1, asm.RFP, header+8+4*i, asm.Word)
		if i == 0 {
			load = load.WithSymbol("out6")
		}
		add(
			load, asm.StoreMem(asm.RFP, key+keyLocal+4*i, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.RFP, header+24+4*i, asm.Word), asm.StoreMem(asm.RFP, key+keyRemote+4*i, asm.R1, asm.Word),
		)
	}
	add(
		asm.Ja.Label("protocol"),

		asm.Mov.Imm(asm.R2, 0).WithSymbol("v4"),
	)
	add(load(header, 20)...)
	add(
		asm.LoadMem(asm.R1, asm.RFP, header+6, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.And.Imm(asm.R1, 0x1fff),
		asm.JNE.Imm(asm.R1, 0, "end"), // a later fragment, which has no ports
		asm.LoadMem(asm.R7, asm.RFP, header, asm.Byte),
		asm.And.Imm(asm.R7, 15),
		asm.LSh.Imm(asm.R7, 2),
		asm.LoadMem(asm.R8, asm.RFP, header+9, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, header+2, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JLT.Reg(asm.R1, asm.R7, "end"),
		asm.Sub.Reg(asm.R1, asm.R7),
		asm.StoreMem(asm.RFP, length, asm.R1, asm.DWord),
		asm.StoreImm(asm.RFP, key+keyFamily, 4, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, header+12, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, header+16, asm.Word),
		asm.JEq.Imm(asm.R9, 1, "out4"),
		asm.StoreMem(asm.RFP, key+keyRemote, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, key+keyLocal, asm.R2, asm.Word),
		asm.Ja.Label("protocol"),
		asm.StoreMem(asm.RFP, key+keyLocal, asm.R1, asm.Word).WithSymbol("out4"),
		asm.StoreMem(asm.RFP, key+keyRemote, asm.R2, asm.Word),

		asm.StoreMem(asm.RFP, key+keyProtocol, asm.R8, asm.Byte).WithSymbol("protocol"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_ICMP, "count"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_TCP, "ports"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_UDP, "ports"),
		asm.JNE.Imm(asm.R8, unix.IPPROTO_ICMPV6, "end"),
		asm.Mov.Reg(asm.R2, asm.R7),
	)
	add(load(ports, 1)...)
	add(
		asm.LoadMem(asm.R1, asm.RFP, ports, asm.Byte),
		asm.JGT.Imm(asm.R1, lastEcho, "end"), // groups, routers and neighbours: the link's own talk
		asm.Ja.Label("count"),
		asm.Mov.Reg(asm.R2, asm.R7).WithSymbol("ports"),
	)
	add(load(ports, 4)...)
	add(
		asm.LoadMem(asm.R1, asm.RFP, ports, asm.Half),
		asm.LoadMem(asm.R2, asm.RFP, ports+2, asm.Half),
		asm.JEq.Imm(asm.R9, 1, "outports"),
		asm.StoreMem(asm.RFP, key+keyRemotePort, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, key+keyLocalPort, asm.R2, asm.Half),
		asm.Ja.Label("count"),
		asm.StoreMem(asm.RFP, key+keyLocalPort, asm.R1, asm.Half).WithSymbol("outports"),
		asm.StoreMem(asm.RFP, key+keyRemotePort, asm.R2, asm.Half),

		asm.LoadMapPtr(asm.R1, flows).WithSymbol("count"),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.LoadMem(asm.R1, asm.RFP, length, asm.DWord),
		asm.JEq.Imm(asm.R0, 0, "fresh"),
		asm.JEq.Imm(asm.R9, 1, "addout"),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord), // valueIn
		asm.Ja.Label("end"),
		asm.Add.Imm(asm.R0, valueOut).WithSymbol("addout"),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Ja.Label("end"),

		asm.JEq.Imm(asm.R9, 1, "freshout").WithSymbol("fresh"),
		asm.StoreMem(asm.RFP, value+valueIn, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, 2),
		asm.Ja.Label("insert"),
		asm.StoreMem(asm.RFP, value+valueOut, asm.R1, asm.DWord).WithSymbol("freshout"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.RFP, value+valueBegan, asm.R1, asm.DWord).WithSymbol("insert"),
		asm.LoadMapPtr(asm.R1, flows),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, value),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),

		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	)
	return p
}
