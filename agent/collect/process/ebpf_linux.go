package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/vauban-iot/vauban/agent/collect/proc"
)

// A record of the program below: numbers, the path that was asked for, the arguments.
const (
	recordPID    = 0
	recordParent = 4
	recordUser   = 8
	recordLength = 12 // bytes of arguments
	recordPath   = 16
	pathSize     = 256
	recordArgs   = recordPath + pathSize
	argsSize     = 1024
	recordSize   = recordArgs + argsSize

	ringSize = 256 << 10 // about 200 starts before they are read
)

// offsets are where the kernel keeps what we read; they differ from one to the next, which tells them itself (BTF).
type offsets struct {
	mm, realParent, tgid, argStart, argEnd, filename int32
}

// runEBPF attaches a program to the tracepoint sched_process_exec.
func (w *Watcher) runEBPF(ctx context.Context, ready func(), see func(event)) error {
	o, err := kernelOffsets()
	if err != nil {
		return err
	}
	_ = rlimit.RemoveMemlock() // kernels before 5.11 charge maps to it; without the right to, those below say so
	ring, err := ebpf.NewMap(&ebpf.MapSpec{Name: "vauban_execs", Type: ebpf.RingBuf, MaxEntries: ringSize})
	if err != nil {
		return err
	}
	defer ring.Close()
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Name: "vauban_lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer counter.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "vauban_exec", Type: ebpf.RawTracepoint, License: "Dual MIT/GPL", Instructions: program(o, ring.FD(), counter.FD()),
	})
	if err != nil {
		return err
	}
	defer program.Close()
	tracepoint, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exec", Program: program})
	if err != nil {
		return err
	}
	defer tracepoint.Close()
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer stop()
	defer reader.Close()
	ready()
	var lost uint64
	var record ringbuf.Record
	for {
		if err := reader.ReadInto(&record); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		if e, ok := parseRecord(record.RawSample); ok {
			see(e)
		}
		var now uint64
		if counter.Lookup(uint32(0), &now) == nil && now > lost {
			w.lost.Add(now - lost)
			lost = now
		}
	}
}

// parseRecord reads what the program wrote.
func parseRecord(b []byte) (event, bool) {
	if len(b) < recordSize {
		return event{}, false
	}
	path, _, _ := bytes.Cut(b[recordPath:recordArgs], []byte{0})
	n := min(native.Uint32(b[recordLength:]), argsSize)
	e := event{
		pid: native.Uint32(b[recordPID:]), parent: native.Uint32(b[recordParent:]), uid: native.Uint32(b[recordUser:]),
		path: strings.ToValidUTF8(string(path), "\uFFFD"), line: proc.JoinArguments(b[recordArgs:][:n]), whole: true,
	}
	return e, true
}

// kernelOffsets asks the running kernel's own description. What was read of it is forgotten again: it is megabytes.
func kernelOffsets() (offsets, error) {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return offsets{}, errors.New("the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF)")
	}
	defer debug.FreeOSMemory()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return offsets{}, err
	}
	var o offsets
	for _, f := range []struct {
		of, member string
		at         *int32
	}{
		{"task_struct", "mm", &o.mm},
		{"task_struct", "real_parent", &o.realParent},
		{"task_struct", "tgid", &o.tgid},
		{"mm_struct", "arg_start", &o.argStart},
		{"mm_struct", "arg_end", &o.argEnd},
		{"linux_binprm", "filename", &o.filename},
	} {
		var s *btf.Struct
		if err := spec.TypeByName(f.of, &s); err != nil {
			return offsets{}, err
		}
		at, ok := memberOffset(s.Members, f.member)
		if !ok {
			return offsets{}, fmt.Errorf("the kernel's %s has no %s", f.of, f.member)
		}
		*f.at = int32(at)
	}
	return o, nil
}

// memberOffset finds a member in bytes, in unnamed structures too.
func memberOffset(members []btf.Member, name string) (uint32, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := m.Type.(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if at, ok := memberOffset(inner, name); ok {
			return m.Offset.Bytes() + at, true
		}
	}
	return 0, false
}

// program fills a record at each start. R6 is the context, whose third word is the linux_binprm, R7 the record, R8 the task.
func program(o offsets, ring, counter int) asm.Instructions {
	const scratch, scratch2, key = -8, -16, -24 // on the stack
	// read copies a word of the kernel at base+offset to the stack.
	read := func(to int16, base asm.Register, offset int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R3, base), asm.Add.Imm(asm.R3, offset),
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, int32(to)),
			asm.Mov.Imm(asm.R2, 8),
			asm.FnProbeReadKernel.Call(),
		}
	}
	var p asm.Instructions
	add := func(is ...asm.Instruction) { p = append(p, is...) }
	add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapPtr(asm.R1, ring),
		asm.Mov.Imm(asm.R2, recordSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "full"),
		asm.Mov.Reg(asm.R7, asm.R0),

		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.R7, recordPID, asm.R0, asm.Word),
		asm.FnGetCurrentUidGid.Call(),
		asm.StoreMem(asm.R7, recordUser, asm.R0, asm.Word),
		asm.StoreImm(asm.R7, recordParent, 0, asm.Word),
		asm.StoreImm(asm.R7, recordLength, 0, asm.Word),

		// The path: bprm->filename.
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.RFP, scratch, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, scratch2, asm.R0, asm.DWord),
		asm.LoadMem(asm.R8, asm.R6, 16, asm.DWord),
	)
	add(read(scratch, asm.R8, o.filename)...)
	add(
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, recordPath),
		asm.Mov.Imm(asm.R2, pathSize),
		asm.LoadMem(asm.R3, asm.RFP, scratch, asm.DWord),
		asm.FnProbeReadKernelStr.Call(),

		// The parent: task->real_parent->tgid.
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(asm.R8, asm.R0),
	)
	add(read(scratch, asm.R8, o.realParent)...)
	add(
		asm.LoadMem(asm.R3, asm.RFP, scratch, asm.DWord), asm.Add.Imm(asm.R3, o.tgid),
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, recordParent),
		asm.Mov.Imm(asm.R2, 4),
		asm.FnProbeReadKernel.Call(),
	)

	// The arguments: from task->mm->arg_start to arg_end, in the memory of the new program.
	add(read(scratch, asm.R8, o.mm)...)
	add(asm.LoadMem(asm.R8, asm.RFP, scratch, asm.DWord))
	add(read(scratch, asm.R8, o.argStart)...)
	add(read(scratch2, asm.R8, o.argEnd)...)
	add(
		asm.LoadMem(asm.R3, asm.RFP, scratch, asm.DWord),
		asm.LoadMem(asm.R2, asm.RFP, scratch2, asm.DWord),
		asm.Sub.Reg(asm.R2, asm.R3),
		asm.JLE.Imm(asm.R2, argsSize, "fits"),
		asm.Mov.Imm(asm.R2, argsSize),
		asm.Mov.Reg(asm.R8, asm.R2).WithSymbol("fits"),
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, recordArgs),
		asm.FnProbeReadUser.Call(),
		asm.JNE.Imm(asm.R0, 0, "submit"),
		asm.StoreMem(asm.R7, recordLength, asm.R8, asm.Word),

		asm.Mov.Reg(asm.R1, asm.R7).WithSymbol("submit"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),

		// No room: count it.
		asm.StoreImm(asm.RFP, key, 0, asm.Word).WithSymbol("full"),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
		asm.LoadMapPtr(asm.R1, counter),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	)
	return p
}
