package signin

// Work is how many password hashes were computed.
func Work(s *Service) int64 { return s.hasher.work.Load() }

// Waiting is how many wait for a slot.
func Waiting(s *Service) int { return int(s.hasher.waiting.Load()) }

// HoldSlot takes a slot until release.
func HoldSlot(s *Service) (release func()) {
	s.hasher.slots <- struct{}{}
	return func() { <-s.hasher.slots }
}
