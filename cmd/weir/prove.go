package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/prove"
)

// exitUsage is prove's: nothing was tried.
const exitUsage = 2

func proveCommand() *cli.Command {
	return &cli.Command{
		Name:  "prove",
		Usage: "try every known way around the bans from a device, and what must work",
		Description: "Run it on a device behind the gateway. It exits with 0 if nothing that was tried is open\n" +
			"and everything works, with 1 if not, and with 2 if it could not begin. What cannot be\n" +
			"closed without decryption is listed as such and never counts as closed. Without --key\n" +
			"the report is signed with a key that nobody keeps.",
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{Name: "gateway", Usage: "`ADDRESS` of the gateway; without it the first resolver of /etc/resolv.conf"},
			&cli.StringFlag{Name: "json", Aliases: []string{"report"}, Usage: "write the signed report to `FILE`"},
			&cli.StringFlag{Name: "html", Usage: "write the report as a page to `FILE`"},
			&cli.StringFlag{Name: "key", Usage: "Ed25519 key in PEM that signs; made if `FILE` is not there"},
			&cli.StringSliceFlag{Name: "only", Usage: "try that `ROUTE` only; may be repeated"},
			&cli.StringSliceFlag{Name: "set", Usage: "a name of yours that a route needs, `KEY=VALUE`: allowed, big, cloak, ech, echo, gateway6, mail, push, time"},
			&cli.DurationFlag{Name: "wait", Value: prove.DefaultWait, Usage: "how long one attempt waits"},
			&cli.BoolFlag{Name: "dry-run", Usage: "list what would be tried, and send nothing"},
		},
		Subcommands: []*cli.Command{{
			Name: "verify", Usage: "check the signature of a report", ArgsUsage: "FILE",
			Description: "Says whose key it is by its SHA-256; whether that is your key, you must know.",
			Action:      proveVerify,
		}},
		Action: proveRun,
	}
}

// unable reports an error that kept everything from being tried.
func unable(c *cli.Context, err error) error {
	_, _ = fmt.Fprintf(c.App.ErrWriter, "weir: %v\n", err)
	return exitCode(exitUsage)
}

func proveRun(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return unable(c, err)
	}
	opts, err := proveOptions(c)
	if err != nil {
		return unable(c, err)
	}
	if c.Bool("dry-run") {
		for _, line := range prove.DryRun(opts) {
			_, _ = fmt.Fprintln(c.App.Writer, line) // a reader that has seen enough may go
		}
		return nil
	}
	key, err := prove.Key(c.String("key"))
	if err != nil {
		return unable(c, err)
	}
	r, err := prove.Run(c.Context, opts)
	if err != nil {
		return fmt.Errorf("not everything was tried: %w", err)
	}
	if err := proveWrite(c, r, key); err != nil {
		return err
	}
	if err := printProof(c.App.Writer, r); err != nil {
		return err
	}
	if !r.Passed {
		return exitCode(exitError)
	}
	return nil
}

func proveOptions(c *cli.Context) (prove.Options, error) {
	opts := prove.Options{Only: c.StringSlice("only"), Wait: c.Duration("wait"), Version: version()}
	if opts.Wait <= 0 || opts.Wait > time.Minute {
		return opts, errors.New("--wait must be more than nothing and at most a minute")
	}
	for _, id := range opts.Only {
		if !slices.ContainsFunc(prove.Catalogue, func(r prove.Route) bool { return r.ID == id }) {
			return opts, fmt.Errorf("--only: there is no route %q; see weir prove --dry-run", id)
		}
	}
	for _, s := range c.StringSlice("set") {
		key, value, _ := strings.Cut(s, "=")
		if err := opts.Fixed.Set(key, value); err != nil {
			return opts, fmt.Errorf("--set: %w", err)
		}
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return opts, err
	}
	if opts.Targets, err = prove.TargetsOf(cfg, time.Now()); err != nil {
		return opts, err
	}
	if opts.Gateway, err = proveGateway(c.String("gateway")); err != nil {
		return opts, err
	}
	opts.DNS, opts.Proxy = proveListener(opts.Gateway, cfg.DNS.Listen, 53, c.IsSet("config")), proveListener(opts.Gateway, cfg.Proxy.Listen, 3128, c.IsSet("config"))
	opts.Admin = proveAdmin(cfg)
	return opts, nil
}

// proveListener is where devices reach a plane: at the port that the
// configuration gives, or the usual one.
func proveListener(gateway netip.Addr, listen []netip.AddrPort, usual uint16, configured bool) netip.AddrPort {
	if configured && len(listen) > 0 {
		usual = listen[0].Port()
	}
	return netip.AddrPortFrom(gateway, usual)
}

// proveAdmin are the ports that are not for devices.
func proveAdmin(cfg *config.Config) []uint16 {
	ports := []uint16{22}
	if cfg.Admin.Listen.IsValid() {
		ports = append(ports, cfg.Admin.Listen.Port())
	}
	for _, l := range cfg.Transparent.Listen {
		ports = append(ports, l.Port())
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func proveGateway(given string) (netip.Addr, error) {
	if given != "" {
		a, err := netip.ParseAddr(given)
		if err != nil {
			return a, fmt.Errorf("--gateway %q is not an IP address", given)
		}
		return a, nil
	}
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return netip.Addr{}, errors.New("which gateway? Give --gateway ADDRESS")
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				return a, nil
			}
		}
	}
	return netip.Addr{}, errors.New("which gateway? /etc/resolv.conf names no resolver; give --gateway ADDRESS")
}

func proveWrite(c *cli.Context, r *prove.Report, key ed25519.PrivateKey) error {
	if file := c.String("json"); file != "" {
		data, err := r.Sign(key)
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	file := c.String("html")
	if file == "" {
		return nil
	}
	var out bytes.Buffer
	if err := r.HTML(&out); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o600)
}

// printProof prints one line for each row, and what was wrong below it.
func printProof(w io.Writer, r *prove.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range r.Rows {
		ban := row.Ban
		if ban == "" {
			ban = "-"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", row.Outcome, row.Route, ban, len(row.Attempts), row.Tries) // t.Flush reports
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		for _, a := range row.Attempts {
			if a.Outcome == prove.Open || a.Outcome == prove.Broken {
				_, _ = fmt.Fprintf(w, "%s %s %s: %s: %s\n", a.Outcome, row.Route, row.Ban, a.Target, a.Seen)
			}
		}
	}
	_, err := fmt.Fprintf(w, "generation %d; rows: %d closed, %d open, %d work, %d broken, %d cannot be closed, %d not tried; %.1f s\n", r.Generation,
		r.Count(prove.Closed), r.Count(prove.Open), r.Count(prove.Works), r.Count(prove.Broken), r.Count(prove.Beyond), r.Count(prove.NotTried), r.Ended.Sub(r.Started).Seconds())
	return err
}

func proveVerify(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return unable(c, errors.New("verify takes one file; see weir prove verify --help"))
	}
	data, err := os.ReadFile(c.Args().First())
	if err != nil {
		return unable(c, err)
	}
	r, key, err := prove.Verify(data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Args().First(), err)
	}
	sum := sha256.Sum256(key)
	_, err = fmt.Fprintf(c.App.Writer, "%s: signed by %s, %s, generation %d, passed: %t\n", c.Args().First(), hex.EncodeToString(sum[:]),
		r.Started.Format(time.RFC3339), r.Generation, r.Passed)
	return err
}
