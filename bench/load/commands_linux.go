package main

func commands() map[string]command {
	return map[string]command{
		"udp":      udpCommand,
		"tcp":      tcpCommand,
		"dot":      dotCommand,
		"doh":      dohCommand,
		"connect":  proxyCommand("connect"),
		"blocked":  proxyCommand("blocked"),
		"get":      proxyCommand("get"),
		"bulk":     proxyCommand("bulk"),
		"idle":     proxyCommand("idle"),
		"upstream": upstreamCommand,
		"origin":   originCommand,
	}
}
