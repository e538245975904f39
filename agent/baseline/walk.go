package baseline

// findings are what one walk over the files of a device found: the first of each kind, and how many.
type findings struct {
	entries                   int
	over                      bool // there are more than maxWalk; those nearest to the root were looked at
	err                       error
	writable, sticky, unowned kindFound
}

type kindFound struct {
	first string
	n     int
}

func (k *kindFound) add(p string) {
	if k.n++; k.n == 1 {
		k.first = p
	}
}

// maxWalk bounds the files that a scan looks at: a device of ours has 10,000 to 60,000, and 100,000 take half a second.
const maxWalk = 100_000

// walkSkips are not looked into: what is not on a disk, and what containers bring.
var walkSkips = map[string]bool{
	"/proc": true, "/sys": true, "/dev": true, "/run": true, "/var/lib/docker": true, "/var/lib/containerd": true,
	"/var/lib/containers": true, "/snap": true, "/sysroot": true, "/ostree": true,
}

// walkKinds are the filesystems that are looked into. Others are remote and may hang, know no owners, or are no files.
var walkKinds = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "f2fs": true, "squashfs": true, "erofs": true,
	"overlay": true, "ubifs": true, "jffs2": true, "tmpfs": true, "ramfs": true, "rootfs": true, "zfs": true, "bcachefs": true,
}

func (m *machine) walked(pick func(*findings) *kindFound, what string) verdict {
	if m.found == nil {
		m.readAccounts()
		if m.usersErr != nil {
			return unread(m.usersErr)
		}
		if m.groupsErr != nil {
			return unread(m.groupsErr)
		}
		uids, gids := map[uint32]bool{0: true}, map[uint32]bool{0: true}
		for _, u := range m.users {
			uids[u.uid] = true
		}
		for _, g := range m.groups {
			gids[g.gid] = true
		}
		m.found = m.walk(uids, gids)
	}
	f := m.found
	switch k := pick(f); {
	case f.err != nil:
		return unread(f.err)
	case k.n == 1:
		return failf("%s %s", k.first, what)
	case k.n > 1:
		return failf("%s %s, and %d others", k.first, what, k.n-1)
	case f.over:
		return missf("%d files were looked at and none is so; there are more", f.entries)
	}
	return pass()
}

func (m *machine) noWorldWritable(*Check) verdict {
	return m.walked(func(f *findings) *kindFound { return &f.writable }, "can be changed by everybody")
}

func (m *machine) stickyBit(*Check) verdict {
	return m.walked(func(f *findings) *kindFound { return &f.sticky }, "can be written to by everybody and has no sticky bit")
}

func (m *machine) noUnowned(*Check) verdict {
	return m.walked(func(f *findings) *kindFound { return &f.unowned }, "belongs to nobody who is known")
}
