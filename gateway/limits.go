package gateway

// Descriptors of one client of the proxy at the most: its connection and the
// origin's. Half of all are for the proxy, so that whatever its clients do,
// questions are answered, upstreams asked and lists read; where there are many,
// that takes no more than the reserve, which the bounds of the DNS plane and
// the proxy's own pipes and idle connections fit into.
const (
	descriptorsPerClient = 2
	descriptorReserve    = 3 << 10
	maxClients           = 16 << 10
)

// clientLimit is how many client connections, and as many tunnels, the proxy
// takes for a process that may open that many files.
func clientLimit(openFiles uint64) int {
	reserve := min(openFiles/2, descriptorReserve)
	return int(min(max((openFiles-reserve)/descriptorsPerClient, 1), maxClients))
}

// maxEncrypted bounds the connections of one encrypted transport.
const maxEncrypted = 32 << 10

// encryptedLimit is how many connections each encrypted transport of the DNS
// plane takes: with DoT and DoH, a half of what clientLimit shares out.
func encryptedLimit(openFiles uint64) int {
	reserve := min(openFiles/2, descriptorReserve)
	return int(min(max((openFiles-reserve)/4, 1), maxEncrypted))
}
