//go:build !race

package vpn

import "time"

// secondOrMore is how long a change may take.
const secondOrMore = time.Second
