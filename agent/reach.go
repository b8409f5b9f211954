package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"ebs-release/internal/boot/source"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
)

const pointerEnv = "EBS_RELEASE_POINTER"

// reachNames are variables that say how a store is reached. Those that have keys are not among
// them: the owner of the tree has the instance's role, and no other.
func reachNames() []string {
	return []string{
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE",
		"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	}
}

func reachOf(values config.Values, getenv func(string) string) status.Reach {
	reach := status.Reach{pointerEnv + "=" + values.Get("pointer")}
	for _, name := range reachNames() {
		if value := getenv(name); value != "" && !strings.Contains(value, "\n") {
			reach = append(reach, name+"="+value)
		}
	}
	return reach
}

// reached returns the place of the pointer, and gives this process the environment in which it was
// read, where it has none of its own.
func (p *program) reached() (place string, err error) {
	reach, err := p.runDir.Reach()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, line := range reach {
		name, value, _ := strings.Cut(line, "=")
		if name == pointerEnv {
			place = value
		}
		if slices.Contains(reachNames(), name) && os.Getenv(name) == "" {
			if err := os.Setenv(name, value); err != nil {
				return "", err
			}
		}
	}
	if place != "" {
		return place, nil
	}
	values, err := p.settings()
	if err == nil && values.Get("pointer") == "" {
		err = errors.New("no setting pointer, and no boot that has left its own")
	}
	return values.Get("pointer"), err
}

// afterBoot is how follow and warm begin, which go on beside what is served.
func (p *program) afterBoot(values config.Values, log *slog.Logger) (*pointer.Fetcher, error) {
	fetcher, err := source.NewFetcher(values.Get("pointer"), log)
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	return fetcher, p.runDir.Make()
}
