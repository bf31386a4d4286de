package main

import (
	"errors"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// cli is the whole command line. kong reads it by its tags.
type cli struct {
	Help helpFlag `short:"h" help:"Show help for the command and its flags, with every default."`

	Serve         serveCmd         `cmd:"" help:"Run the server."`
	Demo          demoCmd          `cmd:"" help:"Show everything on one screen: a real server and a receiver, a delivery, retries, dead letters."`
	Accounts      accountsCmd      `cmd:"" help:"Create and manage accounts (needs the admin token; creating does not where sign-up is open)."`
	Keys          keysCmd          `cmd:"" help:"Make, list and revoke the account's API keys."`
	Secret        secretCmd        `cmd:"" help:"Show and rotate the secret that signs deliveries."`
	Domains       domainsCmd       `cmd:"" help:"Add, verify, list and remove the domains that may be sent to."`
	Send          sendCmd          `cmd:"" help:"Send one request to a target, or a file of many."`
	Deliveries    deliveriesCmd    `cmd:"" help:"Look at deliveries and their attempts, replay and cancel them."`
	DeadLetters   deadLettersCmd   `cmd:"" help:"List, replay and purge dead letters."`
	Destinations  destinationsCmd  `cmd:"" help:"Look at destinations and flows, pause, resume and limit them."`
	Top           topCmd           `cmd:"" help:"Watch the destinations with the most pending."`
	Replays       replaysCmd       `cmd:"" help:"Look at bulk operations, and stop them."`
	Listen        listenCmd        `cmd:"" help:"Receive requests: print them, verify their signatures, fail on purpose."`
	Bench         benchCmd         `cmd:"" help:"Measure this machine."`
	Health        healthCmd        `cmd:"" help:"Ask a server whether it accepts sends; for health checks of containers."`
	Backup        backupCmd        `cmd:"" help:"Copy everything that a running server holds into a file (needs the admin token)."`
	Restore       restoreCmd       `cmd:"" help:"Make a data directory of a backup."`
	Cluster       clusterCmd       `cmd:"" help:"See to a cluster of several nodes (needs the admin token)."`
	Check         checkCmd         `cmd:"" help:"Check a backup, or offline a data directory. Changes nothing."`
	Completion    completionCmd    `cmd:"" help:"Print what makes a shell complete these commands: for bash, zsh or fish."`
	EncryptionKey encryptionKeyCmd `cmd:"" help:"Draw a master key and print its line for --encryption-key-file."`
	Version       versionCmd       `cmd:"" help:"Print the version."`
}

const description = `Harepost takes HTTP requests over a REST API, makes them durable, and delivers them with retries.

Try it: harepost demo`

const exitHelp = `

Exit status: 0 done; 1 failed, or damage found; 2 flags wrong; 3 serve: storage failed; 4 the server refused the request; ` +
	`5 not now (unreachable, overloaded, rate limited, domain still pending); 6 --wait: ended undelivered; 7 --wait: still pending; ` +
	`8 not found; 9 not in its present state; 10 not allowed (key, token, domain, suspended); 11 serve: the cluster does not want this node.`

// parserOptions makes kong write to the shell, name the environment
// variables, and leave ending the process to main.
func parserOptions(sh *shell) []kong.Option {
	return []kong.Option{
		kong.Name("harepost"),
		kong.Description(description + exitHelp),
		kong.Writers(sh.out, sh.err),
		kong.Exit(func(int) { panic("harepost: a flag tried to end the process") }),
		kong.NoDefaultHelp(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.PostBuild(nameEnvironment),
		kong.Bind(sh),
	}
}

var errHelpShown = errors.New("help shown")

// helpFlag prints the help of the command it stands at and stops the parsing
// with errHelpShown. kong's own would end the process.
type helpFlag bool

// IgnoreDefault tells kong that the flag has no value to reset.
func (helpFlag) IgnoreDefault() {}

// BeforeReset is called by kong where the flag was given.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errHelpShown
}

// negative is a word that is a value, although it begins as a flag does.
var negative = regexp.MustCompile(`^-[0-9.]`)

// joinNegatives makes negative numbers and durations the values of the flags
// before them, as in "--rate -1": then the flag's own check answers, instead of
// kong, which knows of no flag "-1".
func joinNegatives(args []string) []string {
	var joined []string
	for i, word := range args {
		if word == "--" {
			return append(joined, args[i:]...)
		}
		last := len(joined) - 1
		if last >= 0 && negative.MatchString(word) {
			switch flag := joined[last]; {
			case strings.HasPrefix(flag, "--") && !strings.Contains(flag, "="):
				joined[last] += "=" + word
				continue
			case len(flag) == 2 && flag[0] == '-':
				joined[last] += word
				continue
			}
		}
		joined = append(joined, word)
	}
	return joined
}

// nameEnvironment gives every flag its variable: HAREPOST_<FLAG> for the
// flags of serve and for those that several commands share (their tag says so),
// HAREPOST_<COMMAND>_<FLAG> for all others, so that HAREPOST_SEND_DATA cannot
// be mistaken for something of the server's.
func nameEnvironment(k *kong.Kong) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		n, ok := node.(*kong.Node)
		if !ok {
			return next(nil)
		}
		for _, f := range n.Flags {
			if f.Name == "help" || len(f.Envs) > 0 {
				continue
			}
			f.Envs = []string{environmentName(n, f.Name)}
			f.Tag.Envs = f.Envs
		}
		return next(nil)
	})
}

func environmentName(n *kong.Node, flag string) string {
	words := []string{flag}
	for ; n != nil && n.Type == kong.CommandNode; n = n.Parent {
		if n.Name != "serve" {
			words = append([]string{n.Name}, words...)
		}
	}
	return "HAREPOST_" + strings.ToUpper(strings.ReplaceAll(strings.Join(words, "_"), "-", "_"))
}

// parseServe parses the flags of serve alone, with their defaults, untouched
// by the environment.
func parseServe(args ...string) (*serveCmd, error) {
	var c struct {
		Serve serveCmd `cmd:""`
	}
	parser, err := kong.New(&c, kong.NoDefaultHelp())
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse(append([]string{"serve"}, args...))
	return &c.Serve, err
}
