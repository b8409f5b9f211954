package cli

import (
	"testing"
)

func TestVersion(t *testing.T) {
	for _, test := range []struct{ linked, module, want string }{
		{"0.1.0", "v0.0.0-20261126221830-4ecf9b29f69e+dirty", "0.1.0"},
		{"", "v0.1.0", "0.1.0"},
		{"", "v0.0.0-20261126221830-4ecf9b29f69e+dirty", "0.0.0-20261126221830-4ecf9b29f69e+dirty"},
		{"", "(devel)", "unknown"},
		{"", "", "unknown"},
	} {
		if got := version(test.linked, test.module); got != test.want {
			t.Errorf("version(%q, %q) is %q, want %q", test.linked, test.module, got, test.want)
		}
	}
}
