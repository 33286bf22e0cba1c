//go:build !linux

package vpn

import "errors"

// A Kernel is the packet filter of a Linux kernel; here there is none.
type Kernel struct {
	NetNS int
}

var errNoKernel = errors.New("packet filter: it needs Linux with nftables: leave vpn.interface empty here, and apply what weir vpn rules prints on the gateway")

// Apply returns an error that says so.
func (Kernel) Apply(Ruleset) (Difference, error) { return Difference{}, errNoKernel }

// Compare returns an error that says so.
func (Kernel) Compare(Ruleset) (Difference, error) { return Difference{}, errNoKernel }

// Remove returns an error that says so.
func (Kernel) Remove() (bool, error) { return false, errNoKernel }

func (Kernel) compare(Ruleset, bool) (Difference, error) { return Difference{}, errNoKernel }

func (Kernel) write(Ruleset, *Difference) error { return errNoKernel }

func (Kernel) update(map[string]SetType, []SetDifference) error { return errNoKernel }

func (Kernel) generation() (uint32, error) { return 0, errNoKernel }
