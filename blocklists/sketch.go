package blocklists

import (
	"math"
	"math/bits"
)

// A sketch counts different hashes within two per cent or so, in 4 KiB however
// many they are: the HyperLogLog of Flajolet and others (2007). With it a table
// is made in its final size, without a copy of it half as large.
type sketch [1 << sketchBits]uint8

const sketchBits = 12

func (s *sketch) add(h uint64) {
	i := h >> (64 - sketchBits)
	if r := uint8(bits.LeadingZeros64(h<<sketchBits|1<<(sketchBits-1))) + 1; r > s[i] {
		s[i] = r
	}
}

func (s *sketch) count() int {
	const m = 1 << sketchBits
	sum, free := 0.0, 0
	for _, r := range s {
		sum += math.Ldexp(1, -int(r))
		if r == 0 {
			free++
		}
	}
	n := 0.7213 / (1 + 1.079/m) * m * m / sum
	if n < 2.5*m && free > 0 {
		n = m * math.Log(m/float64(free)) // linear counting, for small ones
	}
	return int(n)
}
