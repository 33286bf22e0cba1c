// Package world is a small Internet for tests: a device, a gateway and
// everything else, each in a network namespace of its own.
//
//	device ── WireGuard over a cable ── gateway ── cable ── internet
//
// The internet namespace is every address there is: whoever asks 8.8.8.8, a
// banned network or a made-up site reaches the same servers: HTTP, TLS with HTTP
// in it, DNS on the usual and on odd ports, QUIC as far as a server's word that it
// speaks another version, servers that speak first, and such that send back what
// they get. The names of its certificates are those that it is asked for, signed
// by an authority of its own.
//
// The namespaces have no names: they are held open by threads of the test, so
// that nothing is left when it ends, however it ends, and nothing leaves them.
// Only test files import this package, and it takes root; it measures nothing
// and decides nothing.
package world
