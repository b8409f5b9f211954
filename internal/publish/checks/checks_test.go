package checks

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/doctor"
	"ebs-release/internal/fleet"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
)

// account answers each call by its name; what it has no word for was allowed.
type account map[string]error

func (a account) answer(call string, dry *bool) error {
	if err, ok := a[call]; ok || !aws.ToBool(dry) {
		return err
	}
	return &smithy.GenericAPIError{Code: "DryRunOperation"}
}

func (a account) DescribeSnapshots(_ context.Context, in *ec2.DescribeSnapshotsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	return nil, a.answer("DescribeSnapshots", in.DryRun)
}

func (a account) CreateTags(_ context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	return nil, a.answer("CreateTags", in.DryRun)
}

func (a account) DeleteVolume(_ context.Context, in *ec2.DeleteVolumeInput, _ ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error) {
	return nil, a.answer("DeleteVolume", in.DryRun)
}

func TestRights(t *testing.T) {
	denied := &smithy.GenericAPIError{Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation."}
	server := func(a account) error { return Rights(t.Context(), a, "vol-1", "0000000000000000") }
	member := func(a account) error { return RightsOnMember(t.Context(), a, "vol-2", "vol-2") }
	brought := func(a account) error { return RightsOnMember(t.Context(), a, "i-3", "") }
	for name, tc := range map[string]struct {
		ask   func(account) error
		on    account
		says  string // "": nothing is wrong
		minor bool
	}{
		"all on the server":    {server, nil, "", false},
		"no list":              {server, account{"DescribeSnapshots": denied}, "ec2:DescribeSnapshots is not allowed", false},
		"no tags":              {server, account{"CreateTags": denied}, "ec2:CreateTags is not allowed", false},
		"done, not tried":      {server, account{"CreateTags": nil}, "carried out a call that had DryRun set", false},
		"all on a member":      {member, nil, "", false},
		"no report":            {member, account{"CreateTags": denied}, "ec2:CreateTags on vol-2 is not allowed", false},
		"brought by EC2":       {brought, account{"DeleteVolume": denied}, "", false},
		"no report on itself":  {brought, account{"CreateTags": denied}, "ec2:CreateTags on i-3 is not allowed", false},
		"no removal of a left": {member, account{"DeleteVolume": denied}, "`ebs-release gc` needs it", true},
	} {
		err := tc.ask(tc.on)
		_, minor := errors.AsType[doctor.Minor](err)
		if (err != nil) != (tc.says != "") || err != nil && !strings.Contains(err.Error(), tc.says) || minor != tc.minor {
			t.Errorf("%s: %v (minor: %v), want %q (%v)", name, err, minor, tc.says, tc.minor)
		}
	}
}

func TestOfServer(t *testing.T) {
	if err := OfServer(volume.Volume{Tags: map[string]string{volume.TagRole: volume.RoleServer}}); err != nil {
		t.Error(err)
	}
	if err := OfServer(volume.Volume{ID: "vol-1"}); err == nil || !strings.Contains(err.Error(), "is this the release server?") {
		t.Errorf("of any other volume: %v", err)
	}
}

func TestLeftOver(t *testing.T) {
	now := time.Now()
	young, old := fleet.Orphan{Created: now.Add(-23 * time.Hour)}, fleet.Orphan{Created: now.Add(-25 * time.Hour)}
	if err := LeftOver([]fleet.Orphan{young}, now); err != nil {
		t.Error(err)
	}
	found := doctor.Found("none", LeftOver([]fleet.Orphan{young, old}, now))
	if found.State != doctor.Warn || !strings.HasPrefix(found.Says, "1 volumes") || found.Try != "ebs-release gc (it removes them)" {
		t.Errorf("%+v", found)
	}
}

func TestSource(t *testing.T) {
	full, empty := t.TempDir(), t.TempDir()
	if err := os.WriteFile(full+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for source, says := range map[string]string{
		full: "", "build.example.com:/srv/site": "", empty: "is empty", full + "/file": "is not a directory", full + "/none": "no such file",
	} {
		if err := Source(source); (err != nil) != (says != "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", source, err, says)
		}
	}
}

// TestMounted: a plain directory is no release volume.
func TestMounted(t *testing.T) {
	for _, point := range []string{t.TempDir(), t.TempDir() + "/none"} {
		if _, err := Mounted(point); err == nil || !strings.Contains(err.Error(), "nothing is mounted at "+point) {
			t.Errorf("%s: %v", point, err)
		}
	}
	if err := Space("/proc/none"); err == nil || !strings.Contains(err.Error(), "statfs /proc/none") {
		t.Errorf("no directory: %v", err)
	}
}
