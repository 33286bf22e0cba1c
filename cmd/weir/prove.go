package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/prove"
)

func proveCommand() *cli.Command {
	return &cli.Command{
		Name:  "prove",
		Usage: "from a device: try every known way around the bans, and what must work",
		Description: "Run it on a device, or in a namespace that stands for one. It tries each way of its\n" +
			"catalogue against each ban, and what must go on working, over real sockets: to the\n" +
			"gateway, to resolvers of others, to the allowed site and to banned addresses. Exit 0:\n" +
			"every way is closed and everything works; 1: not so.",
		Flags: []cli.Flag{
			configFlag(), jsonFlag(),
			&cli.StringFlag{Name: "dns", Value: "127.0.0.1:5353", Usage: "the gateway's resolver, `ADDRESS:PORT`"},
			&cli.StringFlag{Name: "proxy", Value: "127.0.0.1:3128", Usage: "its explicit proxy, `ADDRESS:PORT`, or none"},
			&cli.StringSliceFlag{Name: "resolver", Value: cli.NewStringSlice("8.8.8.8:53", "[2001:4860:4860::8888]:53"), Usage: "a resolver of others, `ADDRESS:PORT`; may be given several times"},
			&cli.StringFlag{Name: "allowed", Value: "www.canada.ca", Usage: "a site that must work, by `NAME`"},
			&cli.DurationFlag{Name: "timeout", Value: 3 * time.Second, Usage: "how long an attempt may take; silence counts as closed after it"},
			&cli.StringFlag{Name: "only", Usage: "one `ROUTE` of the catalogue"},
			&cli.BoolFlag{Name: "all", Usage: "print what is as it should be, too"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print what would be tried, and try nothing"},
			&cli.StringFlag{Name: "report", Usage: "write the signed report to `FILE`"},
			&cli.StringFlag{Name: "html", Usage: "write the report as a page to `FILE`"},
			&cli.StringFlag{Name: "key", Usage: "sign with the Ed25519 key in `FILE` (PKCS #8, PEM); without, with one that is made for it"},
		},
		Action: proveAction,
		Subcommands: []*cli.Command{
			{Name: "verify", Usage: "check the signature of a report", ArgsUsage: "FILE", Flags: []cli.Flag{jsonFlag()}, Action: proveVerify},
		},
	}
}

func proveOptions(c *cli.Context) (prove.Options, error) {
	o := prove.Options{Allowed: c.String("allowed"), Only: c.String("only"), Timeout: c.Duration("timeout")}
	var err error
	if o.DNS, err = netip.ParseAddrPort(c.String("dns")); err != nil {
		return o, fmt.Errorf("--dns: %w; write an address and a port", err)
	}
	if p := c.String("proxy"); p != "none" {
		if o.Proxy, err = netip.ParseAddrPort(p); err != nil {
			return o, fmt.Errorf("--proxy: %w; write an address and a port, or none", err)
		}
	}
	for _, r := range c.StringSlice("resolver") {
		a, err := netip.ParseAddrPort(r)
		if err != nil {
			return o, fmt.Errorf("--resolver: %w; write an address and a port", err)
		}
		o.Resolvers = append(o.Resolvers, a)
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return o, err
	}
	o.Targets, err = gateway.ProveTargets(cfg)
	return o, err
}

func proveAction(c *cli.Context) error {
	if c.Args().Present() {
		return noSuchCommand(c)
	}
	o, err := proveOptions(c)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		r := &prove.Report{Results: prove.Plan(o)}
		for _, x := range r.Results {
			if _, err := fmt.Fprintf(c.App.Writer, "%s\t%s\t%s\n", x.Route, x.Ban, x.Tried); err != nil {
				return err
			}
		}
		return nil
	}
	key, err := signingKey(c.String("key"))
	if err != nil {
		return err
	}
	r := prove.Run(c.Context, version(), o)
	if err := writeReports(c, r, key); err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, r)
	} else {
		err = r.WriteTable(c.App.Writer, c.Bool("all"))
	}
	if err != nil {
		return err
	}
	if !r.OK() {
		return exitCode(exitError)
	}
	return nil
}

// signingKey reads the key, or makes one.
func signingKey(path string) (ed25519.PrivateKey, error) {
	if path == "" {
		_, key, err := ed25519.GenerateKey(nil)
		return key, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("--key: %s is no PEM file; openssl genpkey -algorithm ed25519 makes one", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("--key: %s: %w", path, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("--key: %s is not an Ed25519 key; openssl genpkey -algorithm ed25519 makes one", path)
	}
	return key, nil
}

func writeReports(c *cli.Context, r *prove.Report, key ed25519.PrivateKey) error {
	if path := c.String("report"); path != "" {
		doc, err := prove.Sign(r, key)
		if err == nil {
			err = os.WriteFile(path, append(doc, '\n'), 0o600)
		}
		if err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	if path := c.String("html"); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err == nil {
			err = errors.Join(r.WriteHTML(f), f.Close())
		}
		if err != nil {
			return fmt.Errorf("--html: %w", err)
		}
	}
	return nil
}

func proveVerify(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("which report? see weir prove verify --help")
	}
	f, err := os.Open(c.Args().First())
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	doc, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err != nil {
		return err
	}
	r, key, err := prove.Verify(doc)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Args().First(), err)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, r)
	}
	if _, err := fmt.Fprintf(c.App.Writer, "signed by the key %s\n", hex.EncodeToString(key)); err != nil {
		return err
	}
	return r.WriteTable(c.App.Writer, false)
}
