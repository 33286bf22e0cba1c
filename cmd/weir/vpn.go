package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/vpn"
)

// exitDifferent is diff's: the kernel has something else.
const exitDifferent = 3

func vpnCommand() *cli.Command {
	force := &cli.BoolFlag{Name: "force", Usage: "apply even if that cuts the SSH session that asks for it"}
	dry := &cli.BoolFlag{Name: "dry-run", Usage: "only say what would change"}
	return &cli.Command{
		Name:  "vpn",
		Usage: "look at the packet filter of the VPN, and put it in place",
		Description: "The packet filter makes the gateway unavoidable for what is behind vpn.interface:\n" +
			"one nftables table, inet weir, that touches nothing else. \"weir serve\" keeps it equal\n" +
			"to the policy. All but rules need Linux and CAP_NET_ADMIN.",
		Subcommands: []*cli.Command{
			{Name: "rules", Usage: "print it in the language of nft", Flags: []cli.Flag{configFlag(), jsonFlag()}, Before: noArgs, Action: vpnRules},
			{Name: "diff", Usage: "say what differs in the kernel; exit 0 for nothing, 3 for something", Flags: []cli.Flag{configFlag(), jsonFlag()}, Before: noArgs, Action: vpnDiff},
			{Name: "apply", Usage: "make the kernel equal to it, in one transaction", Flags: []cli.Flag{configFlag(), jsonFlag(), dry, force}, Before: noArgs, Action: vpnApply},
			{Name: "remove", Usage: "take it away; a running \"weir serve\" puts it back", Flags: []cli.Flag{jsonFlag()}, Before: noArgs, Action: vpnRemove},
		},
		Action: noSuchCommand,
	}
}

func vpnRuleset(c *cli.Context) (*config.Config, vpn.Ruleset, error) {
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, vpn.Ruleset{}, err
	}
	rs, err := gateway.PacketFilter(version(), cfg)
	return cfg, rs, err
}

func vpnRules(c *cli.Context) error {
	_, rs, err := vpnRuleset(c)
	switch {
	case err != nil:
		return err
	case c.Bool("json"):
		return printJSON(c.App.Writer, rs)
	}
	_, err = io.WriteString(c.App.Writer, rs.Text())
	return err
}

func vpnDiff(c *cli.Context) error {
	_, rs, err := vpnRuleset(c)
	if err != nil {
		return err
	}
	d, err := vpn.Kernel{}.Compare(rs)
	if err != nil {
		return err
	}
	if err := printDifference(c, d, "the kernel has it all"); err != nil {
		return err
	}
	if !d.Empty() {
		return exitCode(exitDifferent)
	}
	return nil
}

func printDifference(c *cli.Context, d vpn.Difference, none string) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, d)
	}
	text := d.String()
	if d.Empty() {
		text = none + "\n"
	}
	_, err := io.WriteString(c.App.Writer, text)
	return err
}

func vpnApply(c *cli.Context) error {
	cfg, rs, err := vpnRuleset(c)
	if err != nil {
		return err
	}
	for _, n := range rs.Notes {
		_, _ = fmt.Fprintf(c.App.ErrWriter, "weir: note: %s\n", n)
	}
	dev, err := net.InterfaceByName(cfg.VPN.Interface)
	if err != nil {
		_, _ = fmt.Fprintf(c.App.ErrWriter, "weir: note: there is no interface %s yet; the rules are in place when it comes\n", cfg.VPN.Interface)
	} else if err := lockedOut(cfg, dev, os.Getenv("SSH_CONNECTION")); err != nil && !c.Bool("force") {
		return err
	}
	if c.Bool("dry-run") {
		d, err := vpn.Kernel{}.Compare(rs)
		if err != nil {
			return err
		}
		return printDifference(c, d, "nothing would change")
	}
	d, err := vpn.Kernel{}.Apply(rs)
	if err != nil {
		return err
	}
	return printDifference(c, d, "nothing to change")
}

// lockedOut says so if the session that asks comes through the interface from
// an address that is not of the management.
func lockedOut(cfg *config.Config, dev *net.Interface, ssh string) error {
	client, _, _ := strings.Cut(ssh, " ")
	addr, _ := netip.ParseAddr(client) // invalid: there is no such session
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || slices.ContainsFunc(cfg.VPN.Management, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return nil
	}
	nets, err := dev.Addrs()
	if err != nil {
		return fmt.Errorf("interface %s: %w", dev.Name, err)
	}
	for _, n := range nets {
		if n, ok := n.(*net.IPNet); ok && n.Contains(addr.AsSlice()) {
			return fmt.Errorf("this SSH session comes through %s from %s, which is not in vpn.management: applying the packet filter would cut it; add the address, or use --force", dev.Name, addr)
		}
	}
	return nil
}

func vpnRemove(c *cli.Context) error {
	there, err := vpn.Kernel{}.Remove()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, map[string]bool{"removed": there})
	}
	text := "nothing was there"
	if there {
		text = "removed"
	}
	_, err = fmt.Fprintln(c.App.Writer, text)
	return err
}
