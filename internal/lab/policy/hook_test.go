package policy

import (
	"slices"
	"testing"

	"ebs-release/internal/lab/cloud"
)

// The hook is what the lab's account takes.
var _ cloud.Policy = (&Roles{}).Allow

func TestRolesDecideByTheRoleOfTheCaller(t *testing.T) {
	doc, err := Parse([]byte(`{"Version": "2012-10-17", "Statement": [
		{"Sid": "Look", "Effect": "Allow", "Action": "ec2:DescribeVolumes", "Resource": "*"},
		{"Sid": "Own", "Effect": "Allow", "Action": "ec2:AttachVolume", "Resource": "*",
		 "Condition": {"ArnEquals": {"ec2:SourceInstanceARN": "arn:aws:ec2:*:*:instance/${aws:ResourceTag/ebs-release:instance}"}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	roles := NewRoles(map[string]Document{"member": doc})
	instance := cloud.Principal{InstanceID: tagSelf, Role: "member"}
	look := cloud.Check{Principal: instance, Action: "ec2:DescribeVolumes", Resource: "*"}
	attach := cloud.Check{Principal: instance, Action: "ec2:AttachVolume", Resource: disk, Conditions: map[string][]string{
		"ec2:SourceInstanceARN": {self}, "aws:ResourceTag/ebs-release:instance": {tagSelf},
	}}
	stolen := attach
	stolen.Conditions = map[string][]string{"ec2:SourceInstanceARN": {other}, "aws:ResourceTag/ebs-release:instance": {tagSelf}}
	stranger := look
	stranger.Principal.Role = "other"
	nobody := look
	nobody.Principal.Role = ""
	for name, tt := range map[string]struct {
		check cloud.Check
		want  bool
	}{
		"the account's owner":        {cloud.Check{Action: "ec2:TerminateInstances", Resource: self}, true},
		"its role allows it":         {look, true},
		"a role without a document":  {stranger, false},
		"an instance without a role": {nobody, false},
		"another instance's volume":  {stolen, false},
	} {
		if got := roles.Allow(t.Context(), tt.check); got != tt.want {
			t.Errorf("%s: allowed %v, want %v", name, got, tt.want)
		}
	}
	if got := roles.Unused("member"); !slices.Equal(got, []string{"Own"}) {
		t.Errorf("unused statements: %v, want Own", got)
	}
	if len(roles.Denied()) != 3 {
		t.Errorf("denied: %v, want three", roles.Denied())
	}
	if !roles.Allow(t.Context(), attach) || len(roles.Unused("member")) != 0 {
		t.Errorf("after the own volume was attached, unused statements: %v", roles.Unused("member"))
	}
}

// What the bucket forbids, neither a role nor the account's owner may.
func TestTheBucketsPolicyGoesFirst(t *testing.T) {
	all, err := Parse([]byte(`{"Version": "2012-10-17", "Statement": [{"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	guard, err := ParseBucket([]byte(`{"Version": "2012-10-17", "Statement": [
		{"Sid": "Stays", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::b/x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	roles := NewRoles(map[string]Document{"member": all}).WithBucket(guard)
	for _, who := range []cloud.Principal{{}, {InstanceID: tagSelf, Role: "member"}} {
		for resource, want := range map[string]bool{"arn:aws:s3:::b/x": false, "arn:aws:s3:::b/y": true} {
			if got := roles.Allow(t.Context(), cloud.Check{Principal: who, Action: "s3:DeleteObject", Resource: resource}); got != want {
				t.Errorf("%q deletes %s: allowed %v", who.Name(), resource, got)
			}
		}
	}
}
