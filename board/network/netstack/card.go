package netstack

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/lan"
)

// card is a network card: it takes packets from the stack as frames to its port, and back. The
// observer sees exactly the frames that pass it.
type card struct {
	mac      tcpip.LinkAddress
	port     *lan.Port
	watch    func(frame []byte, sent bool)
	drop     func(frame []byte) bool // of what came: nil: nothing
	observer network.Observer
	out      sync.Mutex // of the observer's sending side: the stack sends from many goroutines

	above atomic.Pointer[above]
	dhcp  atomic.Pointer[func(payload []byte, from tcpip.LinkAddress)]
}

type above struct{ stack.NetworkDispatcher }

var _ stack.LinkEndpoint = (*card)(nil)

func (c *card) MTU() uint32                      { return network.MTU }
func (c *card) SetMTU(uint32)                    {}
func (c *card) MaxHeaderLength() uint16          { return header.EthernetMinimumSize }
func (c *card) LinkAddress() tcpip.LinkAddress   { return c.mac }
func (c *card) SetLinkAddress(tcpip.LinkAddress) {}
func (c *card) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}
func (c *card) IsAttached() bool                        { return c.above.Load() != nil }
func (c *card) Wait()                                   {}
func (c *card) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (c *card) Close()                                  {}
func (c *card) SetOnCloseAction(func())                 {}

func (c *card) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		c.above.Store(nil)
		return
	}
	c.above.Store(&above{d})
}

func (c *card) AddHeader(p *stack.PacketBuffer) {
	header.Ethernet(p.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: p.EgressRoute.LocalLinkAddress, DstAddr: p.EgressRoute.RemoteLinkAddress, Type: p.NetworkProtocolNumber,
	})
}

func (c *card) ParseHeader(p *stack.PacketBuffer) bool {
	_, ok := p.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// WritePackets implements stack.LinkWriter.
func (c *card) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range list.AsSlice() {
		v := p.ToView()
		c.send(v.AsSlice())
		v.Release()
	}
	return list.Len(), nil
}

func (c *card) send(frame []byte) {
	if !c.port.Up() {
		return // nothing left the board
	}
	c.out.Lock()
	if c.watch != nil {
		c.watch(frame, true)
	}
	c.observer.Sent(frame)
	c.out.Unlock()
	c.port.Send(frame)
}

// receive takes a frame from the cable. Like any card, it looks at nothing that is sent to another one.
func (c *card) receive(frame []byte) {
	if len(frame) < header.EthernetMinimumSize {
		return
	}
	eth := header.Ethernet(frame)
	to, kind := eth.DestinationAddress(), tcpip.PacketHost
	switch {
	case to == c.mac:
	case to == header.EthernetBroadcastAddress:
		kind = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(to):
		kind = tcpip.PacketMulticast
	default:
		return
	}
	if c.watch != nil {
		c.watch(frame, false)
	}
	c.observer.Received(frame)
	if f := c.dhcp.Load(); f != nil {
		if payload := bootReply(frame); payload != nil {
			(*f)(payload, eth.SourceAddress())
			return
		}
	}
	if c.drop != nil && c.drop(frame) {
		return
	}
	d := c.above.Load()
	if d == nil {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer p.DecRef()
	if !c.ParseHeader(p) {
		return
	}
	p.PktType = kind
	d.DeliverNetworkPacket(eth.Type(), p)
}
