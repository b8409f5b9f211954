package cli

import (
	"runtime/debug"
	"strings"
)

// Version is the version of this program: what the linker was told (linked), or, after a plain go
// install, what Go took from git. "unknown" when neither says.
func Version(linked string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return version(linked, info.Main.Version)
}

func version(linked, module string) string {
	if linked != "" {
		return linked
	}
	if built, ok := strings.CutPrefix(module, "v"); ok {
		return built
	}
	return "unknown" // "(devel)", or no build information
}
