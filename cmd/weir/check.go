package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "validate a configuration, its lists and their vectors",
		Description: "Prints every error as FILE:LINE:COLUMN: key: what is wrong, or as key: what is\n" +
			"wrong where it is in another file or in several places, and exits with 1 if there\n" +
			"is one. Nothing is started.",
		Flags:  []cli.Flag{configFlag(), jsonFlag()},
		Before: noArgs,
		Action: check,
	}
}

// A checked is the JSON form of a check's result.
type checked struct {
	OK     bool         `json:"ok"`
	Config string       `json:"config"` // empty: the built-in default
	Bans   []string     `json:"bans,omitempty"`
	Lists  int          `json:"lists"`
	Rules  int          `json:"rules"`
	Skips  int          `json:"skipped"` // entries of the lists that were not used
	Errors []checkError `json:"errors,omitempty"`
}

type checkError struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
}

func check(c *cli.Context) error {
	res, err := checkFile(c.String("config"))
	switch {
	case c.Bool("json"):
		if err := printJSON(c.App.Writer, res); err != nil {
			return err
		}
		if !res.OK {
			return exitCode(exitError)
		}
		return nil
	case err != nil:
		return err
	}
	name := res.Config
	if name == "" {
		name = "built-in default"
	}
	skipped := ""
	if res.Skips > 0 {
		skipped = fmt.Sprintf("; %d entries of the lists are skipped, and weir lists lint says why", res.Skips)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: ok: %d bans, %d lists, %d rules%s\n", name, len(res.Bans), res.Lists, res.Rules, skipped)
	return err
}

func checkFile(file string) (checked, error) {
	res := checked{Config: file}
	cfg, err := config.Load(file, bans.FS)
	var files []error
	if err == nil {
		var e *gateway.Explainer
		if e, err = gateway.NewExplainer(cfg); err == nil {
			files = gateway.CheckFiles(cfg)
			err = errors.Join(files...)
		}
		if err == nil {
			res.OK = true
			for _, b := range cfg.Bans {
				res.Bans = append(res.Bans, b.ID)
			}
			for _, l := range e.Lists() {
				res.Rules += l.Rules
				if l.Report != nil {
					res.Skips += l.Report.Skipped()
				}
				if l.Enabled {
					res.Lists++
				}
			}
			return res, nil
		}
	}
	var all config.Errors
	if !errors.As(err, &all) {
		if files == nil {
			files = []error{err}
		}
		for _, err := range files {
			res.Errors = append(res.Errors, checkError{File: file, Message: err.Error()})
		}
		return res, err
	}
	for _, e := range all {
		res.Errors = append(res.Errors, checkError{e.File, e.Line, e.Column, e.Key, e.Msg})
	}
	return res, err
}
