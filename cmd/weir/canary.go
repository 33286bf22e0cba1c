package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
)

// canaryCommands are those that end a canary; lists update --canary begins one.
func canaryCommands() []*cli.Command {
	why := &cli.StringFlag{Name: "why", Usage: "note `REASON` with the change"}
	end := func(what string) cli.ActionFunc {
		return func(c *cli.Context) error {
			return changePolicy(c, "/v1/canary/"+what, gateway.CanaryEnd{Why: c.String("why")})
		}
	}
	return []*cli.Command{
		{
			Name:  "promote",
			Usage: "put what the group of a canary has in force for everybody",
			Flags: adminFlags(why), Before: noArgs,
			Action: end("promote"),
		},
		{
			Name:  "drop",
			Usage: "have the group of a canary go back to what all others have, and hold that",
			Description: "The configuration and the lists as they are now are in force for nobody then; after\n" +
				"they have been mended, lists update takes them. A version of a fetched list with canary:\n" +
				"in the configuration is refused from then on; lists approve takes it all the same.",
			Flags: adminFlags(why), Before: noArgs,
			Action: end("drop"),
		},
	}
}

// beginCanary has a group go ahead.
func beginCanary(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("lists update --canary takes all lists; %s is one too many", c.Args().First())
	}
	return changePolicy(c, "/v1/canary", gateway.CanaryRequest{Group: c.String("canary"), Why: c.String("why")})
}

// printCanary says that a canary runs, if one does.
func printCanary(w io.Writer, canary *gateway.CanaryStatus) error {
	if canary == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "canary: group %s goes ahead since %s, %d rules; all others keep those of generation %d. weir lists diff %[4]d shows the difference, lists promote or lists drop ends it\n",
		canary.Group, canary.Since.Format(time.RFC3339), canary.Rules, canary.From)
	return err
}
