package store_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/store"
	"ebs-release/internal/test/s3"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// The server has no lifecycle rules: its answer is played.
func TestRulesThatTakeTheStoreAwayAreNamed(t *testing.T) {
	server := s3.Start(t)
	rules := ""
	s := openS3(t, "/prod", via(server, func(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		if !r.URL.Query().Has("lifecycle") {
			return send(r)
		}
		if rules == "" {
			return answer(r, http.StatusNotFound, "NoSuchLifecycleConfiguration", "none", nil), nil
		}
		resp := answer(r, http.StatusOK, "", "", nil)
		body := "<LifecycleConfiguration>" + rules + "</LifecycleConfiguration>"
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		return resp, nil
	}))
	const on, remove = "<Status>Enabled</Status>", "<Expiration><Days>30</Days></Expiration>"
	rule := func(id, filter, rest string) string {
		return fmt.Sprintf("<Rule><ID>%s</ID><Filter>%s</Filter>%s</Rule>", id, filter, rest)
	}
	for name, tc := range map[string]struct {
		rules, harm string
		old         bool
	}{
		"none":               {"", "[]", false},
		"all of the bucket":  {rule("a", "<Prefix></Prefix>", on+remove), "[a: removes release.json, packs/ after 30 days]", false},
		"off":                {rule("a", "<Prefix></Prefix>", "<Status>Disabled</Status>"+remove), "[]", false},
		"packs":              {rule("a", "<Prefix>prod/packs/</Prefix>", on+remove), "[a: removes packs/ after 30 days]", false},
		"some packs":         {rule("a", "<Prefix>prod/packs/no</Prefix>", on+remove), "[a: removes packs/ after 30 days]", false},
		"the pointer":        {rule("a", "<Prefix>prod/release</Prefix>", on+remove), "[a: removes release.json after 30 days]", false},
		"another store":      {rule("a", "<Prefix>production/</Prefix>", on+remove), "[]", false},
		"with a tag":         {rule("a", "<Tag><Key>k</Key><Value>v</Value></Tag>", on+remove), "[]", false},
		"with a tag and all": {rule("a", "<And><Prefix>prod/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>", on+remove), "[]", false},
		"large ones": {rule("a", "<And><Prefix>prod/packs/</Prefix><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></And>", on+remove),
			"[a: removes packs/ after 30 days]", false},
		"to the archive": {rule("a", "<Prefix>prod/packs/</Prefix>", on+"<Transition><Days>7</Days><StorageClass>GLACIER</StorageClass></Transition>"),
			"[a: moves to GLACIER packs/ after 7 days]", false},
		"old versions": {rule("a", "<Prefix></Prefix>", on+"<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>"), "[]", true},
		"uploads without end": {rule("a", "<Prefix></Prefix>",
			on+"<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>"), "[]", false},
		"as it was written once": {"<Rule><ID>a</ID><Prefix>prod/packs</Prefix>" + on + remove + "</Rule>", "[a: removes packs/ after 30 days]", false},
		"no name, and a date": {"<Rule><Filter><Prefix>prod/</Prefix></Filter>" + on + "<Expiration><Date>2027-01-01T00:00:00.000Z</Date></Expiration></Rule>",
			"[a rule: removes release.json, packs/ on 2027-01-01]", false},
	} {
		rules = tc.rules
		got, err := s.Lifecycle(t.Context(), "release.json", "packs/")
		if err != nil || fmt.Sprint(got.Harm) != tc.harm || got.OldVersions != tc.old {
			t.Errorf("%s: %+v, %v; want %s", name, got, err, tc.harm)
		}
	}
	_, err := openS3(t, "/prod", via(server, func(r *http.Request, _ func(*http.Request) (*http.Response, error)) (*http.Response, error) {
		return answer(r, http.StatusForbidden, "AccessDenied", "Access Denied", nil), nil
	})).Lifecycle(t.Context(), "packs/")
	if err == nil || !strings.Contains(err.Error(), "the right s3:GetLifecycleConfiguration is missing: Access Denied") {
		t.Errorf("without the right: %v", err)
	}
}

// A store works in a bucket that keeps versions, and in one with object lock.
func TestBucketsThatKeepWhatIsDeleted(t *testing.T) {
	server := s3.StartVersioned(t)
	cfg, err := server.Config(t.Context())
	must(t, err)
	owner := sdk.NewFromConfig(cfg, func(o *sdk.Options) { o.UsePathStyle = true })
	s := openS3(t, "/prod", server.Config)
	keeps := func(want store.Keeping) {
		t.Helper()
		if got, err := s.Keeps(t.Context()); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	keeps(store.Keeping{})
	_, err = owner.PutBucketVersioning(t.Context(), &sdk.PutBucketVersioningInput{
		Bucket: aws.String(bucket.Name), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled}})
	must(t, err)
	keeps(store.Keeping{Versions: true})
	works := func(round string) {
		t.Helper()
		_, have, err := store.ReadAll(t.Context(), s, "release.json", 1<<20, "")
		if round == "versions" {
			have, err = "", nil
		}
		must(t, err)
		one, err := s.PutIf(t.Context(), "release.json", []byte(round+" one"), have)
		must(t, err)
		two, err := s.PutIf(t.Context(), "release.json", []byte(round+" two"), one)
		must(t, err)
		if got := has(t, s, "release.json", round+" two"); got != two {
			t.Errorf("version %q, was %q", got, two)
		}
		must(t, s.Put(t.Context(), "packs/a", strings.NewReader("a")))
		must(t, s.Delete(t.Context(), "packs/a"))
		if items, err := s.List(t.Context(), "packs/", "", 10); err != nil || len(items) > 0 {
			t.Errorf("what was deleted is listed: %v, %v", items, err)
		}
	}
	works("versions")
	_, err = owner.PutObjectLockConfiguration(t.Context(), &sdk.PutObjectLockConfigurationInput{
		Bucket: aws.String(bucket.Name), ObjectLockConfiguration: &types.ObjectLockConfiguration{ObjectLockEnabled: types.ObjectLockEnabledEnabled,
			Rule: &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Days: aws.Int32(1), Mode: types.ObjectLockRetentionModeGovernance}}}})
	must(t, err)
	keeps(store.Keeping{Versions: true, Locked: "1 day (GOVERNANCE)"})
	works("locked")
}
