package baseline

import "github.com/cespare/xxhash/v2"

// hashOf is the same on every server and at every start. It never tells: two devices of one hash count as one.
func hashOf(device string) uint64 { return xxhash.Sum64String(device) }
