package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is that of a terminal as it opens. Help is as wide everywhere, so that a test can hold
// it, and a manual page can be made from it.
const helpWidth = 80

// usage is the part of a verb's help below its text. cobra's own has all settings of the program
// below each verb, in lines of up to 200 columns: what the verb itself takes was lost in them. Here
// a verb has the names of these flags, and the program's help explains them.
func usage(cmd *cobra.Command) error {
	var text strings.Builder
	text.WriteString("Usage:\n")
	if cmd.Runnable() {
		fmt.Fprintf(&text, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&text, "  %s [command]\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(&text, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		text.WriteString("\nAvailable Commands:\n")
		for _, verb := range cmd.Commands() {
			if verb.IsAvailableCommand() || verb.Name() == "help" {
				fmt.Fprintf(&text, "  %-*s %s\n", verb.NamePadding(), verb.Name(), verb.Short)
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(&text, "\nFlags:\n%s", cmd.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableInheritedFlags() {
		fmt.Fprintf(&text, "\nGlobal Flags:\n%s", flagNames(cmd.InheritedFlags()))
		fmt.Fprintf(&text, "\n\"%s --help\" explains the global flags.\n", cmd.Root().Name())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&text, "\nUse \"%s [command] --help\" for more about a command.\n", cmd.CommandPath())
	}
	_, err := fmt.Fprint(cmd.OutOrStderr(), text.String())
	return err
}

// flagNames is "--config --output …", in lines.
func flagNames(flags *pflag.FlagSet) string {
	var text strings.Builder
	line := " "
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Hidden {
			return
		}
		if len(line)+len(" --")+len(flag.Name) > helpWidth {
			text.WriteString(line + "\n")
			line = " "
		}
		line += " --" + flag.Name
	})
	text.WriteString(line + "\n")
	return text.String()
}
