package rtos

// A thread of this kernel has a Go stack, of which nothing can be said in the board's terms. What is accounted for is the
// stack that the board would need: its size is declared at creation, and code says with PushStack how much of it it uses.
// With Config.StackChecking an image of the stack is kept as it would be in RAM, filled with a pattern and written over by
// PushStack, and checked as ThreadX does: at each dispatch, and whenever the thread gives up the processor.

// savedContext is what a Cortex-M4 keeps of a thread on its stack, in bytes.
const savedContext = 72

type stack struct {
	Region
	used  uint32   // bytes
	high  uint32   // most bytes ever used
	image []uint32 // from the lowest word up, and one guard word above the stack; nil without checking
	fill  uint32
}

const stackFill = 0xEFEFEFEF

func (s *stack) build(k *Kernel, r Region) {
	s.Region = r
	s.used = savedContext
	s.high = savedContext
	if !k.cfg.StackChecking {
		return
	}
	s.fill = stackFill
	if k.random != nil {
		s.fill = k.random.Uint32() & 0xFF * 0x01010101
	}
	if words := int(r.Size/wordSize) + 1; len(s.image) != words {
		s.image = make([]uint32, words)
	}
	for i := range s.image {
		s.image[i] = s.fill
	}
	s.write(0, savedContext)
}

// write marks the bytes between two depths as used in the image.
func (s *stack) write(from, to uint32) {
	if s.image == nil {
		return
	}
	top := uint32(len(s.image) - 1)
	for w := from / wordSize; w < (to+wordSize-1)/wordSize && w < top; w++ {
		s.image[top-1-w] = ^s.fill
	}
}

// PushStack says that the calling thread uses n more bytes of its stack, as a function's frame does. Deeper than the
// stack's size is an overflow, which the next check finds.
func (k *Kernel) PushStack(n uint32) {
	if t := k.current; t != nil {
		s := &t.stack
		from := s.used
		s.used += n
		s.high = max(s.high, s.used)
		s.write(from, s.used)
	}
}

// PopStack says that the calling thread uses n bytes less of its stack.
func (k *Kernel) PopStack(n uint32) {
	if t := k.current; t != nil {
		t.stack.used -= min(n, t.stack.used)
	}
}

// StackInfo is what is known of a thread's declared stack.
type StackInfo struct {
	Region
	Used  uint32   // bytes in use, as far as the thread said, with its saved context
	High  uint32   // most bytes ever in use; with StackChecking also what the image shows
	Image []uint32 // the stack's words from the lowest up, and a guard word; nil without StackChecking. It is the kernel's own
}

// StackInfo tells of t's stack.
func (t *Thread) StackInfo() StackInfo {
	s := &t.stack
	return StackInfo{s.Region, s.used, s.high, s.image}
}

// StackErrorNotify registers f to be called with a thread whose stack overflowed or is corrupt; nil for nobody. It answers
// FeatureNotEnabled without Config.StackChecking.
func (k *Kernel) StackErrorNotify(f func(*Thread)) Status {
	k.charge(k.costs.Call)
	k.trace(EventThreadStackErrorNotify, 0, 0, 0, 0)
	if !k.cfg.StackChecking {
		return FeatureNotEnabled
	}
	k.onStack = f
	return Success
}

func (k *Kernel) checkStack(t *Thread) {
	s := &t.stack
	top := len(s.image) - 1
	if s.image[0] != s.fill || s.image[top] != s.fill || s.used > s.Size {
		if f := k.onStack; f != nil {
			f(t)
		}
	}
	// The stack analyzer: somebody wrote below what was known to be used.
	if below := top - int(s.high/wordSize) - 1; below >= 0 && s.image[below] != s.fill {
		for i, w := range s.image[:below+1] {
			if w != s.fill {
				s.high = uint32(top-i) * wordSize
				break
			}
		}
	}
}

// stackPointer is where the current thread's stack ends on the board, for traces.
func (k *Kernel) stackPointer() uint32 {
	if t := k.current; t != nil {
		return t.stack.Start + t.stack.Size - t.stack.used
	}
	return 0
}

// stackInUse reports that r overlaps the stack of a thread.
func (k *Kernel) stackInUse(r Region) bool {
	for t, n := k.threads.first, k.threads.count; n > 0; t, n = t.node.next, n-1 {
		if s := &t.stack; s.Size != 0 && r.Size != 0 && r.Start <= s.end() && s.Start <= r.end() {
			return true
		}
	}
	return false
}
