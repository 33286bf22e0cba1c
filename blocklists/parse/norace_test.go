//go:build !race

package parse

// realBytes is how much of a real file the slow readings are compared over:
// all of it.
const realBytes = 1 << 30
