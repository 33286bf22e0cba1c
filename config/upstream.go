package config

// A Strategy is in which order upstreams are asked. Those that are down come
// last in each.
type Strategy string

const (
	StrategyOrdered  Strategy = "ordered"  // as they are written
	StrategyFastest  Strategy = "fastest"  // the one that has been responding soonest
	StrategyParallel Strategy = "parallel" // all at once
	StrategyRandom   Strategy = "random"
)
