package world

// What is rolled for is named, so that two questions never share a throw.
const (
	tagRole uint64 = iota + 1
	tagZone
	tagKind
	tagBorn
	tagChurn
	tagStorm
	tagHabit
	tagCount
	tagOdd
	tagRollout
	tagCampaign
	tagNoise
	tagHealth
)

// roll is the throw for what is asked: the same each time. It is the finaliser of
// splitmix64, once for each part.
func (w *World) roll(parts ...uint64) uint64 {
	x := w.cfg.Seed + 0x9e3779b97f4a7c15
	for _, p := range parts {
		x = mix(x ^ mix(p+0x9e3779b97f4a7c15))
	}
	return x
}

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
