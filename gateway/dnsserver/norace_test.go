//go:build !race

package dnsserver

// raceEnabled says whether the race detector takes part, which changes what
// things cost.
const raceEnabled = false
