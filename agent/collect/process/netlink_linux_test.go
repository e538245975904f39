package process

import (
	"os/exec"
	"slices"
	"syscall"
	"testing"
)

// asNobody runs cmd without rights, in a network namespace that the connector does not tell anything.
func asNobody(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func FuzzConnectorEvents(f *testing.F) {
	f.Add(listen())
	b := make([]byte, headerSize+cnSize+eventHeader+8)
	native.PutUint32(b, uint32(len(b)))
	native.PutUint32(b[headerSize:], cnIdxProc)
	native.PutUint32(b[headerSize+4:], cnValProc)
	native.PutUint16(b[headerSize+16:], eventHeader+8)
	native.PutUint32(b[headerSize+cnSize:], eventExec)
	native.PutUint32(b[headerSize+cnSize+eventHeader:], 6) // the thread
	native.PutUint32(b[headerSize+cnSize+eventHeader+4:], 7)
	f.Add(b)
	if got := slices.Collect(connectorEvents(append(slices.Clone(b), b...))); !slices.Equal(got, []connectorEvent{{eventExec, 7}, {eventExec, 7}}) {
		f.Fatalf("got %v", got)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(slices.Collect(connectorEvents(b))); n > len(b)/headerSize {
			t.Errorf("%d events in %d bytes", n, len(b))
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(make([]byte, recordSize))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parseRecord(b); ok && (len(e.path) > 3*pathSize || len(e.line) > 3*argsSize) {
			t.Errorf("%+v of %d bytes", e, len(b))
		}
	})
}
