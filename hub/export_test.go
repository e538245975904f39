package hub

import "github.com/vauban-iot/vauban/iot"

// SharesHandover reports whether two identities wait for each other when they connect.
func SharesHandover(h *Hub, a, b iot.ID) bool { return h.handover(a) == h.handover(b) }

// PresenceWaiting is how many changes of presence wait for the write that is under way.
func PresenceWaiting(h *Hub) int {
	h.presence.mu.Lock()
	defer h.presence.mu.Unlock()
	if h.presence.next == nil {
		return 0
	}
	return len(h.presence.next.ps)
}
