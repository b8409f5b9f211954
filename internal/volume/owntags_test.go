package volume

import (
	"strings"
	"testing"
)

func TestParseTags(t *testing.T) {
	got, err := ParseTags("team=web, cost-centre=12, Owner Name=a=b")
	if err != nil || len(got) != 3 || got["cost-centre"] != "12" || got["Owner Name"] != "a=b" {
		t.Errorf("%v, %v", got, err)
	}
	for setting, want := range map[string]string{
		"team":                             "is not KEY=VALUE",
		"aws:x=1":                          "reserved",
		"EBS-release:role=server":          "reserved",
		"team=a,team=b":                    "twice",
		strings.Repeat("k", 129) + "=1":    "too long",
		"team=" + strings.Repeat("v", 257): "too long",
		"ABC-project:owner=x":              "looks like one of ebs-release's", // the B
		"Ebc-project:owner=x":              "looks like one of ebs-release's",
		"abc-pRoject:owner=x":              "",
		"abS-project:owner=x":              "looks like one of ebs-release's",
		"abs-project:owner=x":              "", // what has no capital is refused by nobody
	} {
		_, err := ParseTags(setting)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40q: %v, want %q", setting, err, want)
		}
	}
}
