package policy

import (
	"fmt"
	"strings"
	"testing"
)

const (
	self    = "arn:aws:ec2:us-east-1:123456789012:instance/i-0aaaaaaaaaaaaaaaa"
	other   = "arn:aws:ec2:us-east-1:123456789012:instance/i-0bbbbbbbbbbbbbbbb"
	disk    = "arn:aws:ec2:us-east-1:123456789012:volume/vol-0123456789abcdef0"
	tagSelf = "i-0aaaaaaaaaaaaaaaa"
)

// one is a document with one statement: Allow of the action on the resource, under the condition
// (JSON, "" for none).
func one(t *testing.T, action, resource, condition string) Document {
	t.Helper()
	if condition == "" {
		condition = "{}"
	}
	doc, err := Parse(fmt.Appendf(nil, `{"Version": "2012-10-17", "Statement": [{"Sid": "One", "Effect": "Allow", "Action": %q, "Resource": %q, "Condition": %s}]}`,
		action, resource, condition))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestActionsAndResourcesMatchWithWildcards(t *testing.T) {
	for _, tt := range []struct {
		action, resource       string
		askAction, askResource string
		want                   bool
	}{
		{"ec2:AttachVolume", "*", "ec2:AttachVolume", disk, true},
		{"ec2:attachvolume", "*", "EC2:AttachVolume", disk, true},
		{"ec2:AttachVolume", "*", "ec2:DetachVolume", disk, false},
		{"ec2:Describe*", "*", "ec2:DescribeVolumes", "*", true},
		{"ec2:?etachVolume", "*", "ec2:DetachVolume", disk, true},
		{"ec2:?etachVolume", "*", "ec2:etachVolume", disk, false},
		{"*", "*", "autoscaling:DescribeAutoScalingGroups", "*", true},
		{"ec2:*", "*", "autoscaling:DescribeAutoScalingGroups", "*", false},
		{"ec2:AttachVolume", "arn:aws:ec2:*:*:volume/*", "ec2:AttachVolume", disk, true},
		{"ec2:AttachVolume", "arn:aws:ec2:*:*:volume/*", "ec2:AttachVolume", self, false},
		{"ec2:AttachVolume", "arn:aws:ec2:us-east-1:123456789012:volume/vol-0123456789abcdef0", "ec2:AttachVolume", disk, true},
		{"ec2:AttachVolume", "arn:aws:ec2:eu-west-1:*:volume/*", "ec2:AttachVolume", disk, false},
		{"ec2:CreateVolume", "arn:aws:ec2:*::snapshot/*", "ec2:CreateVolume", "arn:aws:ec2:us-east-1::snapshot/snap-0123456789abcdef0", true},
		{"ec2:CreateVolume", "arn:aws:ec2:*:volume/*:x", "ec2:CreateVolume", disk, false},
		{"ec2:DescribeVolumes", "arn:aws:ec2:*:*:volume/*", "ec2:DescribeVolumes", "*", false}, // no resource types: only Resource "*" allows it
		{"ec2:AttachVolume", "arn:aws:ec2:*:*:instance/${ec2:InstanceID}", "ec2:AttachVolume", self, true},
		{"ec2:AttachVolume", "arn:aws:ec2:*:*:instance/${ec2:InstanceID}", "ec2:AttachVolume", other, false},
		{"ec2:AttachVolume", "arn:aws:ec2:*:*:instance/${aws:username}", "ec2:AttachVolume", self, false},
	} {
		got := one(t, tt.action, tt.resource, "").Evaluate(Request{tt.askAction, tt.askResource, map[string][]string{"ec2:instanceid": {tagSelf}}})
		if got.Allowed != tt.want {
			t.Errorf("Action %s, Resource %s: %s on %s allowed: %v, want %v", tt.action, tt.resource, tt.askAction, tt.askResource, got.Allowed, tt.want)
		}
	}
}

func TestConditionOperators(t *testing.T) {
	for _, tt := range []struct {
		name, condition string
		context         map[string][]string
		want            bool
	}{
		{"equal", `{"StringEquals": {"aws:ResourceTag/ebs-release:role": "member"}}`, map[string][]string{"aws:ResourceTag/ebs-release:role": {"member"}}, true},
		{"equal: other case of the key", `{"StringEquals": {"AWS:resourcetag/EBS-release:role": "member"}}`, map[string][]string{"aws:ResourceTag/ebs-release:role": {"member"}}, true},
		{"equal: other case of the value", `{"StringEquals": {"aws:ResourceTag/r": "Member"}}`, map[string][]string{"aws:ResourceTag/r": {"member"}}, false},
		{"equal: one of several", `{"StringEquals": {"aws:ResourceTag/r": ["server", "member"]}}`, map[string][]string{"aws:ResourceTag/r": {"member"}}, true},
		{"equal: a wildcard is a character", `{"StringEquals": {"aws:ResourceTag/r": "m*"}}`, map[string][]string{"aws:ResourceTag/r": {"member"}}, false},
		{"equal: key missing", `{"StringEquals": {"aws:ResourceTag/r": "member"}}`, nil, false},
		{"equal: key with two values", `{"StringEquals": {"aws:TagKeys": ["a", "b"]}}`, map[string][]string{"aws:TagKeys": {"a", "b"}}, false},
		{"two keys: both hold", `{"StringEquals": {"aws:a": "1", "aws:b": "2"}}`, map[string][]string{"aws:a": {"1"}, "aws:b": {"2"}}, true},
		{"two keys: one does not hold", `{"StringEquals": {"aws:a": "1", "aws:b": "2"}}`, map[string][]string{"aws:a": {"1"}, "aws:b": {"1"}}, false},
		{"two operators: one does not hold", `{"StringEquals": {"aws:a": "1"}, "Null": {"aws:b": "false"}}`, map[string][]string{"aws:a": {"1"}}, false},
		{"like: star and question mark", `{"StringLike": {"aws:userid": "AROA*:i-?bc"}}`, map[string][]string{"aws:userid": {"AROAXYZ:i-abc"}}, true},
		{"like: nothing for a question mark", `{"StringLike": {"aws:userid": "AROA*:i-?bc"}}`, map[string][]string{"aws:userid": {"AROAXYZ:i-bc"}}, false},
		{"if exists: key missing", `{"StringEqualsIfExists": {"aws:a": "1"}}`, nil, true},
		{"if exists: another value", `{"StringEqualsIfExists": {"aws:a": "1"}}`, map[string][]string{"aws:a": {"2"}}, false},
		{"all values: all in the list", `{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}`, map[string][]string{"aws:TagKeys": {"b", "a"}}, true},
		{"all values: one is not", `{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}`, map[string][]string{"aws:TagKeys": {"a", "c"}}, false},
		{"all values: key missing", `{"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}`, nil, true},
		{"any value: one in the list", `{"ForAnyValue:StringLike": {"aws:TagKeys": "a*"}}`, map[string][]string{"aws:TagKeys": {"z", "ab"}}, true},
		{"any value: key missing", `{"ForAnyValue:StringLike": {"aws:TagKeys": "a*"}}`, nil, false},
		{"null: asked to be missing", `{"Null": {"aws:TagKeys": "true"}}`, nil, true},
		{"null: asked to be there", `{"Null": {"aws:TagKeys": "false"}}`, nil, false},
		{"null: there", `{"Null": {"aws:TagKeys": "false"}}`, map[string][]string{"aws:TagKeys": {"a"}}, true},
		{"bool", `{"Bool": {"ec2:Encrypted": "true"}}`, map[string][]string{"ec2:Encrypted": {"True"}}, true},
		{"bool: the other", `{"Bool": {"ec2:Encrypted": "true"}}`, map[string][]string{"ec2:Encrypted": {"false"}}, false},
		{"arn: wildcards in segments", `{"ArnEquals": {"ec2:SourceInstanceARN": "arn:aws:ec2:*:*:instance/i-0a*"}}`, map[string][]string{"ec2:SourceInstanceARN": {self}}, true},
		{"arn: another resource", `{"ArnLike": {"ec2:SourceInstanceARN": "arn:aws:ec2:*:*:instance/i-0a*"}}`, map[string][]string{"ec2:SourceInstanceARN": {other}}, false},
		{"arn: a star does not reach over colons", `{"ArnLike": {"ec2:SourceInstanceARN": "arn:aws:ec2:*:*:*"}}`, map[string][]string{"ec2:SourceInstanceARN": {"arn:aws:ec2:us-east-1"}}, false},
		{"arn: not an ARN", `{"ArnLike": {"ec2:SourceInstanceARN": "arn:aws:ec2:*:*:*"}}`, map[string][]string{"ec2:SourceInstanceARN": {"i-0aaaaaaaaaaaaaaaa"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := one(t, "ec2:AttachVolume", "*", tt.condition).Evaluate(Request{"ec2:AttachVolume", disk, tt.context})
			if got.Allowed != tt.want {
				t.Errorf("%s with %v: allowed %v, want %v", tt.condition, tt.context, got.Allowed, tt.want)
			}
		})
	}
}

func TestPolicyVariables(t *testing.T) {
	const own = `{"ArnEquals": {"ec2:SourceInstanceARN": "arn:aws:ec2:*:*:instance/${aws:ResourceTag/ebs-release:instance}"}}`
	for _, tt := range []struct {
		name, condition string
		context         map[string][]string
		want            bool
	}{
		{"own volume", own, map[string][]string{"ec2:SourceInstanceARN": {self}, "aws:ResourceTag/ebs-release:instance": {tagSelf}}, true},
		{"another's volume", own, map[string][]string{"ec2:SourceInstanceARN": {other}, "aws:ResourceTag/ebs-release:instance": {tagSelf}}, false},
		{"a volume without the tag", own, map[string][]string{"ec2:SourceInstanceARN": {self}}, false},
		{"a caller that is no instance", own, map[string][]string{"aws:ResourceTag/ebs-release:instance": {tagSelf}}, false},
		{"a wildcard in a value is a character", own, map[string][]string{"ec2:SourceInstanceARN": {self}, "aws:ResourceTag/ebs-release:instance": {"*"}}, false},
		{"a brace in a value is a character", own, map[string][]string{"ec2:SourceInstanceARN": {self}, "aws:ResourceTag/ebs-release:instance": {"${ec2:SourceInstanceARN}"}}, false},
		{"with wildcards around", `{"StringLike": {"aws:userid": "*:${ec2:InstanceId}"}}`, map[string][]string{"aws:userid": {"AROAX:i-1"}, "ec2:InstanceID": {"i-1"}}, true},
		{"in StringEquals", `{"StringEquals": {"aws:a": "x-${aws:b}-${aws:c}"}}`, map[string][]string{"aws:a": {"x-1-2"}, "aws:b": {"1"}, "aws:c": {"2"}}, true},
		{"multivalued key", `{"StringLike": {"aws:a": "${aws:TagKeys}"}}`, map[string][]string{"aws:a": {"x"}, "aws:TagKeys": {"x", "y"}}, false},
		{"default", `{"StringEquals": {"aws:a": "${aws:PrincipalTag/team, 'nobody'}"}}`, map[string][]string{"aws:a": {"nobody"}}, true},
		{"default, but there is a value", `{"StringEquals": {"aws:a": "${aws:PrincipalTag/team, 'nobody'}"}}`, map[string][]string{"aws:a": {"nobody"}, "aws:PrincipalTag/team": {"red"}}, false},
		{"escaped star", `{"StringLike": {"aws:a": "x${*}"}}`, map[string][]string{"aws:a": {"x*"}}, true},
		{"escaped star is no wildcard", `{"StringLike": {"aws:a": "x${*}"}}`, map[string][]string{"aws:a": {"xyz"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := one(t, "ec2:AttachVolume", "*", tt.condition).Evaluate(Request{"ec2:AttachVolume", disk, tt.context})
			if got.Allowed != tt.want {
				t.Errorf("%s with %v: allowed %v, want %v", tt.condition, tt.context, got.Allowed, tt.want)
			}
		})
	}
}

func TestExplicitDenyWinsWhereverItStands(t *testing.T) {
	allow := `{"Sid": "Yes", "Effect": "Allow", "Action": "ec2:*", "Resource": "*"}`
	deny := `{"Sid": "No", "Effect": "Deny", "Action": "ec2:DeleteVolume", "Resource": "*"}`
	for _, statements := range []string{allow + "," + deny, deny + "," + allow} {
		doc, err := Parse([]byte(`{"Version": "2012-10-17", "Statement": [` + statements + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := doc.Evaluate(Request{"ec2:DeleteVolume", disk, nil}); got != (Decision{false, "No"}) {
			t.Errorf("denied action: %+v", got)
		}
		if got := doc.Evaluate(Request{"ec2:AttachVolume", disk, nil}); got != (Decision{true, "Yes"}) {
			t.Errorf("allowed action: %+v", got)
		}
		if got := doc.Evaluate(Request{"s3:GetObject", "*", nil}); got != (Decision{}) {
			t.Errorf("action that no statement is about: %+v", got)
		}
		if got := doc.Without("No").Evaluate(Request{"ec2:DeleteVolume", disk, nil}); !got.Allowed {
			t.Errorf("without the denying statement: %+v", got)
		}
	}
	if got := (Document{}).Evaluate(Request{"ec2:DescribeVolumes", "*", nil}); got.Allowed {
		t.Error("an empty document allows")
	}
}

func TestParseRefusesWhatItWouldNotEvaluate(t *testing.T) {
	statement := func(s string) string { return `{"Version": "2012-10-17", "Statement": [` + s + `]}` }
	for _, tt := range []struct{ name, document, want string }{
		{"no JSON", `Version: 2012`, "invalid character"},
		{"an older version", `{"Version": "2008-10-17", "Statement": [{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*"}]}`, "2008-10-17"},
		{"no statement", `{"Version": "2012-10-17", "Statement": []}`, "no statement"},
		{"text behind it", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*"}`) + "{}", "behind the document"},
		{"no Sid", statement(`{"Effect": "Allow", "Action": "ec2:X", "Resource": "*"}`), "Sid"},
		{"the same Sid twice", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*"},{"Sid": "A", "Effect": "Allow", "Action": "ec2:Y", "Resource": "*"}`), "two statements have the Sid A"},
		{"unknown effect", statement(`{"Sid": "A", "Effect": "allow", "Action": "ec2:X", "Resource": "*"}`), "Effect"},
		{"no action", statement(`{"Sid": "A", "Effect": "Allow", "Resource": "*"}`), "no Action"},
		{"an action without a service", statement(`{"Sid": "A", "Effect": "Allow", "Action": "AttachVolume", "Resource": "*"}`), "SERVICE:NAME"},
		{"no resource", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X"}`), "no Resource"},
		{"an empty list", statement(`{"Sid": "A", "Effect": "Allow", "Action": [], "Resource": "*"}`), "at least one"},
		{"a resource that is no ARN", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "volume/*"}`), "neither an ARN"},
		{"a wildcard as service", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "arn:aws:*:*:*:volume/*"}`), "wildcard as its service"},
		{"a variable before the resource", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "arn:aws:ec2:${aws:RequestedRegion}:*:volume/*"}`), "before the resource"},
		{"the whole ARN a variable", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "${ec2:SourceInstanceARN}"}`), "neither an ARN"},
		{"NotAction", statement(`{"Sid": "A", "Effect": "Allow", "NotAction": "ec2:X", "Resource": "*"}`), "NotAction"},
		{"Principal", statement(`{"Sid": "A", "Effect": "Allow", "Principal": "*", "Action": "ec2:X", "Resource": "*"}`), "Principal"},
		{"an operator it does not know", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*", "Condition": {"NumericLessThan": {"ec2:VolumeSize": "100"}}}`), "NumericLessThan"},
		{"an operator twice", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*", "Condition": {"StringEquals": {"aws:a": "1"}, "StringEquals": {"aws:b": "1"}}}`), "StringEquals twice"},
		{"a truth that is none", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*", "Condition": {"Null": {"aws:a": "yes"}}}`), "neither true nor false"},
		{"an open variable", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*", "Condition": {"StringLike": {"aws:a": "${aws:b"}}}`), "closing brace"},
		{"a condition that is no ARN", statement(`{"Sid": "A", "Effect": "Allow", "Action": "ec2:X", "Resource": "*", "Condition": {"ArnLike": {"ec2:SourceInstanceARN": "i-1"}}}`), "neither an ARN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.document))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse: %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestBucketPoliciesTakeAwayFromEverybody(t *testing.T) {
	const form = `{"Version": "2012-10-17", "Statement": [{"Sid": "One", "Effect": %q, %s "Action": "s3:PutObject", "Resource": "arn:aws:s3:::b/*"}]}`
	for _, tt := range []struct{ effect, principal, refused string }{
		{"Deny", `"Principal": "*",`, ""},
		{"Deny", "", "Principal"},
		{"Allow", `"Principal": "*",`, "Deny only"},
		{"Deny", `"Principal": {"AWS": "arn:aws:iam::123456789012:root"},`, "Principal"},
		{"Deny", `"Principal": ["*"],`, "Principal"},
		{"Deny", `"NotPrincipal": "*",`, "NotPrincipal"},
	} {
		text := fmt.Appendf(nil, form, tt.effect, tt.principal)
		_, err := ParseBucket(text)
		if refused := err != nil; refused != (tt.refused != "") || refused && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s %s: %v", tt.effect, tt.principal, err)
		}
		if _, err := Parse(text); tt.principal != "" && err == nil {
			t.Errorf("%s is taken for a role's", tt.principal)
		}
	}
}
