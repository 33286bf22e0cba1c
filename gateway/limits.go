package gateway

// Descriptors of one client of the proxy at the most: its connection and the
// origin's. Half of all are for the proxy, so that whatever its clients do,
// questions are answered, upstreams asked and lists read.
const (
	descriptorsPerClient = 2
	maxClients           = 4096
)

// clientLimit is how many client connections, and as many tunnels, the proxy
// takes for a process that may open that many files.
func clientLimit(openFiles uint64) int {
	return int(min(max(openFiles/2/descriptorsPerClient, 1), maxClients))
}
