package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithytime "github.com/aws/smithy-go/time"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// longestState is above the longest of the documented ones, Warmed:Hibernated.
const longestState = 64

// TargetState asks once for the lifecycle state that this instance is in, or on its way to; "": no
// Auto Scaling group has it ("Retrieve the target lifecycle state through instance metadata", Auto
// Scaling User Guide).
func TargetState(ctx context.Context, client *imds.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	out, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: "autoscaling/target-lifecycle-state"})
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.HTTPStatusCode() == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("GET of the target lifecycle state: %w", shorten(err))
	}
	defer func() { _ = out.Content.Close() }()
	text, err := io.ReadAll(io.LimitReader(out.Content, longestState))
	return strings.TrimSpace(string(text)), err
}

// Warmed says whether a lifecycle state is one of a warm pool.
func Warmed(state string) bool { return strings.HasPrefix(state, "Warmed:") }

// InWarmPool asks whether this instance is in a warm pool, or on its way into one, until it is told
// or ctx ends.
func InWarmPool(ctx context.Context, client *imds.Client, log *slog.Logger) (bool, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		state, err := TargetState(ctx, client)
		if err == nil {
			return Warmed(state), nil
		}
		log.Debug("the metadata service did not answer, trying again", "error", err, "pause", pause)
		if smithytime.SleepWithContext(ctx, pause/2+rand.N(pause/2)) != nil {
			return false, advice.Try(fmt.Errorf("ask the instance metadata service whether this instance is in a warm pool: %w: %w",
				context.Cause(ctx), err), "is IMDS switched on?")
		}
	}
}
