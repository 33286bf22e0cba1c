//go:build race

package parse

// realBytes is how much of a real file the slow readings are compared over:
// under the race detector they would take minutes.
const realBytes = 128 << 10
