package main

import (
	"context"

	"ebs-release/internal/fleet"
	"ebs-release/internal/health"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
)

// memberHealth is publish.Health.
type memberHealth struct {
	checker health.Checker
	groups  []string
}

func healthOf(cfg aws.Config, groups []string) memberHealth {
	return memberHealth{health.Checker{Groups: autoscaling.NewFromConfig(cfg), Balancers: elb.NewFromConfig(cfg)}, groups}
}

// Look is publish.Health's.
func (h memberHealth) Look(ctx context.Context, by string, some []fleet.Member) (map[string]string, error) {
	h.checker.Kind = by
	return h.checker.Look(ctx, some)
}

// Idle is publish.Health's.
func (h memberHealth) Idle(ctx context.Context) error { return h.checker.Idle(ctx, h.groups) }
