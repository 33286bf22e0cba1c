//go:build race

package gateway

// underRace: the race detector takes so much of the processor that a load says
// nothing about loss.
const underRace = true
