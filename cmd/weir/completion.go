package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// The scripts ask the program itself (--generate-bash-completion) what may
// come next, so they never go stale. A "--" would end the options for the
// program as for everybody, so options are asked for with one hyphen.
const (
	bashCompletion = `_weir() {
  local cur words
  cur="${COMP_WORDS[COMP_CWORD]}"
  words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  case "$cur" in
    -*) words+=("${cur/#--/-}") ;;
  esac
  COMPREPLY=($(compgen -o default -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o default -F _weir weir
`
	zshCompletion = `#compdef weir
_weir() {
  local -a opts
  if [[ "${words[CURRENT]}" == -* ]]; then
    opts=("${(@f)$("${(@)words[1,CURRENT-1]}" "${words[CURRENT]/#--/-}" --generate-bash-completion 2>/dev/null)}")
  else
    opts=("${(@f)$("${(@)words[1,CURRENT-1]}" --generate-bash-completion 2>/dev/null)}")
  fi
  if [[ -n "${opts[1]}" ]]; then
    compadd -- $opts
  else
    _files
  fi
}
compdef _weir weir
`
)

// completionRequest is the last argument of what a script asks.
const completionRequest = "--generate-bash-completion"

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "print a completion script for bash, zsh or fish",
		ArgsUsage:   "bash|zsh|fish",
		Description: "For example: source <(weir completion bash)",
		BashComplete: func(c *cli.Context) {
			_, _ = fmt.Fprintln(c.App.Writer, "bash\nzsh\nfish")
		},
		Action: func(c *cli.Context) error {
			script, err := completion(c.App, c.Args().Slice())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

func completion(app *cli.App, args []string) (string, error) {
	if len(args) == 1 {
		switch args[0] {
		case "bash":
			return bashCompletion, nil
		case "zsh":
			return zshCompletion, nil
		case "fish":
			return app.ToFishCompletion()
		}
	}
	return "", fmt.Errorf("completion takes one of bash, zsh and fish; see weir completion --help")
}
