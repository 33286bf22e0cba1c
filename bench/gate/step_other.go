//go:build !(linux && amd64)

package main

import (
	"context"
	"errors"
)

// canStep says whether instructions are counted here.
const canStep = false

// A count is what an iteration of a benchmark executed.
type count struct{ instructions, locked uint64 }

func countSteps(context.Context, string, string, string, int) (count, error) {
	return count{}, errors.ErrUnsupported
}
