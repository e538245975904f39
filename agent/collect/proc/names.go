package proc

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxNames bounds the accounts that are kept; a device has a few dozen.
const maxNames = 4096

// Names tells the names of users by /etc/passwd. The zero value is ready; its methods may be called by several goroutines.
type Names struct {
	Path string // empty: /etc/passwd

	mu      sync.Mutex
	names   map[uint32]string
	checked time.Time
	mod     time.Time
}

// Name returns the name of a user, or "" for one that has none. A change of the file is seen within ten seconds.
func (n *Names) Name(uid uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.names == nil || now.Sub(n.checked) > 10*time.Second {
		n.checked = now
		n.load()
	}
	return n.names[uid]
}

func (n *Names) load() {
	path := n.Path
	if path == "" {
		path = "/etc/passwd"
	}
	f, err := os.Open(path)
	if err != nil {
		n.names = map[uint32]string{}
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil {
		if n.names != nil && st.ModTime().Equal(n.mod) {
			return
		}
		n.mod = st.ModTime()
	}
	n.names = parseNames(f)
}

func parseNames(r io.Reader) map[uint32]string {
	names := map[uint32]string{}
	for s := bufio.NewScanner(r); s.Scan() && len(names) < maxNames; {
		f := strings.Split(s.Text(), ":")
		if len(f) < 3 {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		if _, known := names[uint32(uid)]; err == nil && !known {
			names[uint32(uid)] = f[0]
		}
	}
	return names
}
