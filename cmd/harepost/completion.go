package main

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/harepost/harepost/engine/delivery"
)

// completionCmd prints what a shell needs to complete our command line. The
// scripts ask the program itself, which knows its commands and flags from the
// same model that parses them: nothing has to be kept in step.
type completionCmd struct {
	Bash  completionBashCmd  `cmd:"" help:"For bash: source <(harepost completion bash)"`
	Zsh   completionZshCmd   `cmd:"" help:"For zsh, after compinit: source <(harepost completion zsh)"`
	Fish  completionFishCmd  `cmd:"" help:"For fish: harepost completion fish | source"`
	Words completionWordsCmd `cmd:"" hidden:"" help:"What the last word may become: a word, a tab and its meaning in a line."`
}

// Help is shown by kong under the usage line.
func (c *completionCmd) Help() string {
	return `Put the line into ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish to have it in every shell.`
}

type completionBashCmd struct{}

// Run prints the script.
func (*completionBashCmd) Run(sh *shell) error { return printScript(sh.out, bashCompletion) }

type completionZshCmd struct{}

// Run prints the script.
func (*completionZshCmd) Run(sh *shell) error { return printScript(sh.out, zshCompletion) }

type completionFishCmd struct{}

// Run prints the script.
func (*completionFishCmd) Run(sh *shell) error { return printScript(sh.out, fishCompletion) }

func printScript(w io.Writer, script string) error {
	_, err := io.WriteString(w, script)
	return err
}

// filesWord stands for "a file's name" among the words that are offered.
const filesWord = ":files"

// bash splits words at "=" and ":" as well; the "=" is given as a word of its own.
const bashCompletion = `# bash completion for harepost; load it with: source <(harepost completion bash)
_harepost() {
	local line word=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=()
	while IFS= read -r line; do
		if [ "$line" = ":files" ]; then
			compopt -o default 2>/dev/null
			return
		fi
		COMPREPLY+=("${line%%$'\t'*}")
	done < <("${COMP_WORDS[0]/#\~/$HOME}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _harepost harepost
`

const zshCompletion = `#compdef harepost
# zsh completion for harepost; load it with: source <(harepost completion zsh)
_harepost() {
	local line
	local -a candidates
	while IFS= read -r line; do
		if [[ $line == ":files" ]]; then
			_files
			return
		fi
		candidates+=("${line%%$'\t'*}:${line#*$'\t'}")
	done < <("${~words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)
	_describe harepost candidates
}
compdef _harepost harepost
`

const fishCompletion = `# fish completion for harepost; load it with: harepost completion fish | source
function __harepost_complete
	set -l words (commandline -opc)
	set -l word (commandline -ct)
	set -l program $words[1]
	set -l lines ($program completion words -- $words[2..-1] "$word" 2>/dev/null)
	if test "$lines[1]" = ":files"
		__fish_complete_path "$word"
	else
		printf '%s\n' $lines
	end
end
complete -c harepost -f -a '(__harepost_complete)'
`

type completionWordsCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run prints what the last of the words may become.
func (c *completionWordsCmd) Run(sh *shell, ctx *kong.Context) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, offer := range complete(ctx.Model.Node, words) {
		fmt.Fprintln(sh.out, offer)
	}
	return nil
}

// complete offers what the last word of a command line may become. It follows
// the words before it as the parser would, and offers nothing where it is lost.
func complete(node *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	var value *kong.Flag // whose value comes next
	onlyArguments := false
	arguments := 0 // that the command has already
	for _, word := range words[:len(words)-1] {
		switch {
		case word == "=": // as bash has it, between a flag and its value
		case value != nil:
			value = nil
		case word == "--" && !onlyArguments:
			onlyArguments = true
		case !onlyArguments && strings.HasPrefix(word, "-") && word != "-":
			value = flagWithValue(node, word)
		case childNamed(node, word) != nil:
			node = childNamed(node, word)
		default:
			arguments++
		}
	}
	last := words[len(words)-1]
	if last == "=" {
		last = ""
	}
	switch {
	case value != nil:
		return offerValues(value, last)
	case !onlyArguments && strings.HasPrefix(last, "-"):
		if name, start, ok := strings.Cut(last, "="); ok { // one word, as zsh and fish have it
			return offerJoined(flagWithValue(node, name), name, start)
		}
		return offerFlags(node, last)
	case takesFile(node, arguments):
		return []string{filesWord}
	case onlyArguments:
		return nil
	}
	return offerCommands(node, last)
}

// takesFile tells whether the command's next argument is a file or a directory,
// which its name says.
func takesFile(node *kong.Node, arguments int) bool {
	if arguments >= len(node.Positional) {
		return false
	}
	return slices.Contains([]string{"path", "file", "dir"}, node.Positional[arguments].Name)
}

// offerJoined is what --flag=start may become. A file is not offered: it would
// replace the flag.
func offerJoined(f *kong.Flag, name, start string) []string {
	if f == nil {
		return nil
	}
	var offers []string
	for _, value := range offerValues(f, start) {
		if value != filesWord {
			offers = append(offers, name+"="+value)
		}
	}
	return offers
}

// flagWithValue is the flag that word is, if its value is another word.
func flagWithValue(node *kong.Node, word string) *kong.Flag {
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			named := word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short)
			for _, alias := range f.Aliases {
				named = named || word == "--"+alias
			}
			if named && !f.IsBool() {
				return f
			}
		}
	}
	return nil
}

func childNamed(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Type == kong.CommandNode && (child.Name == name || slices.Contains(child.Aliases, name)) {
			return child
		}
	}
	return nil
}

// offerValues is what a flag's value may become. That it is a file's name is
// told by how the help calls it.
func offerValues(f *kong.Flag, prefix string) []string {
	if slices.Contains([]string{"FILE", "DIR", "PATH"}, f.PlaceHolder) {
		return []string{filesWord}
	}
	values := f.EnumSlice()
	if f.Name == "status" && f.Target.Type() == reflect.TypeFor[selector]() {
		values = nil
		for _, status := range delivery.Statuses {
			values = append(values, status.String())
		}
	}
	var offers []string
	for _, word := range values {
		if word != "" && strings.HasPrefix(word, prefix) {
			offers = append(offers, word)
		}
	}
	return offers
}

func offerFlags(node *kong.Node, prefix string) []string {
	var offers []string
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if name := "--" + f.Name; !f.Hidden && strings.HasPrefix(name, prefix) {
				offers = append(offers, name+"\t"+firstSentence(f.Help))
			}
		}
	}
	slices.Sort(offers)
	return slices.Compact(offers)
}

func offerCommands(node *kong.Node, prefix string) []string {
	var offers []string
	for _, child := range node.Children {
		if child.Type == kong.CommandNode && !child.Hidden && strings.HasPrefix(child.Name, prefix) {
			offers = append(offers, child.Name+"\t"+firstSentence(child.Help))
		}
	}
	slices.Sort(offers)
	return offers
}

// firstSentence is what a menu has room for.
func firstSentence(help string) string {
	sentence, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(strings.ReplaceAll(sentence, "\n", " "), ".")
}
