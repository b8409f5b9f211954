package main

import (
	"strings"
	"testing"

	"ebs-release/internal/pointer"
)

func TestSettingsOfTrustAreChecked(t *testing.T) {
	secret, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	good := "0123456789abcdef:" + secret.Public().String()
	for value, fine := range map[string]bool{
		"": true, good: true, good + ", " + good: true,
		good + ",x": false, "0123:" + secret.Public().String(): false, "0123456789abcdef:" + strings.TrimSpace(secret.Text()): false,
	} {
		if err := checkTrustedKeys(value); (err == nil) != fine {
			t.Errorf("trusted-keys %.30q…: %v", value, err)
		} else if err != nil && strings.Contains(err.Error(), strings.TrimSpace(secret.Text())) {
			t.Error("the error shows a secret key")
		}
	}
	for value, fine := range map[string]bool{"0": true, "1": true, "42": true, "-1": false, "": false, "9007199254740992": false} {
		if err := checkLeast(value); (err == nil) != fine {
			t.Errorf("min-generation %q: %v", value, err)
		}
	}
}
