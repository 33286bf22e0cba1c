//go:build !race

package blocklists

const underRace = false
