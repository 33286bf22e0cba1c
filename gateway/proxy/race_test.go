//go:build race

package proxy

// underRace: allocations and memory are not what they are otherwise.
const underRace = true
