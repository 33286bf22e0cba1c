//go:build race

package vpn

import "time"

// secondOrMore is how long a change may take under the race detector.
const secondOrMore = 10 * time.Second
