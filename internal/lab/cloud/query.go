package cloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// call is one Query request on its way through the account.
type call struct {
	ctx       context.Context
	account   *Account
	service   string
	action    string
	principal Principal
	params    params
	dryRun    bool
	at        time.Time // reads are served as of then
	disk      DiskFault
	made      string // the id of what the call made
}

// action is one action of a service.
type action struct {
	mutates bool
	pages   bool // EC2's, by MaxResults
	do      func(*call) (any, error)
}

// actions are all that the lab answers, by service and name.
func actions() map[string]action {
	return map[string]action{
		"ec2:CreateVolume":              {mutates: true, do: createVolume},
		"ec2:DescribeVolumes":           {pages: true, do: describeVolumes},
		"ec2:DescribeVolumeStatus":      {do: describeVolumeStatus},
		"ec2:DeleteVolume":              {mutates: true, do: deleteVolume},
		"ec2:AttachVolume":              {mutates: true, do: attachVolume},
		"ec2:DetachVolume":              {mutates: true, do: detachVolume},
		"ec2:ModifyInstanceAttribute":   {mutates: true, do: modifyInstanceAttribute},
		"ec2:CreateSnapshot":            {mutates: true, do: createSnapshot},
		"ec2:DescribeSnapshots":         {pages: true, do: describeSnapshots},
		"ec2:DeleteSnapshot":            {mutates: true, do: deleteSnapshot},
		"ec2:RunInstances":              {mutates: true, do: runInstances},
		"ec2:DescribeInstances":         {pages: true, do: describeInstances},
		"ec2:TerminateInstances":        {mutates: true, do: terminateInstances},
		"ec2:StopInstances":             {mutates: true, do: stopInstances},
		"ec2:StartInstances":            {mutates: true, do: startInstances},
		"ec2:RebootInstances":           {mutates: true, do: rebootInstances},
		"ec2:CreateTags":                {mutates: true, do: createTags},
		"ec2:DeleteTags":                {mutates: true, do: deleteTags},
		"ec2:DescribeTags":              {pages: true, do: describeTags},
		"ec2:DescribeAvailabilityZones": {do: describeAvailabilityZones},
		"ec2:DescribeRegions":           {do: describeRegions},
		"ec2:GetEbsEncryptionByDefault": {do: getEbsEncryptionByDefault},
		"ec2:GetEbsDefaultKmsKeyId":     {do: getEbsDefaultKmsKeyId},

		"ec2:CreateLaunchTemplate":           {mutates: true, do: createTemplate},
		"ec2:CreateLaunchTemplateVersion":    {mutates: true, do: createTemplateVersion},
		"ec2:DescribeLaunchTemplates":        {do: describeTemplates},
		"ec2:DescribeLaunchTemplateVersions": {do: describeTemplateVersions},
		"ec2:ModifyLaunchTemplate":           {mutates: true, do: modifyTemplate},
		"ec2:DeleteLaunchTemplateVersions":   {mutates: true, do: deleteTemplateVersions},

		"autoscaling:DescribeAutoScalingGroups":           {do: describeGroups},
		"autoscaling:DescribeAutoScalingInstances":        {do: describeMembers},
		"autoscaling:UpdateAutoScalingGroup":              {mutates: true, do: updateGroup},
		"autoscaling:SetDesiredCapacity":                  {mutates: true, do: setDesiredCapacity},
		"autoscaling:TerminateInstanceInAutoScalingGroup": {mutates: true, do: terminateMember},
		"autoscaling:DeleteAutoScalingGroup":              {mutates: true, do: deleteGroup},
		"autoscaling:CompleteLifecycleAction":             {mutates: true, do: completeLifecycleAction},
		"autoscaling:RecordLifecycleActionHeartbeat":      {mutates: true, do: recordHeartbeat},
		"autoscaling:DescribeLifecycleHooks":              {do: describeHooks},
		"autoscaling:DescribeTrafficSources":              {do: describeTrafficSources},
		"autoscaling:SetInstanceHealth":                   {mutates: true, do: setInstanceHealth},
		"autoscaling:EnterStandby":                        {mutates: true, do: enterStandby},
		"autoscaling:ExitStandby":                         {mutates: true, do: exitStandby},
		"autoscaling:PutWarmPool":                         {mutates: true, do: putWarmPool},
		"autoscaling:DescribeWarmPool":                    {do: describeWarmPool},
		"autoscaling:DeleteWarmPool":                      {mutates: true, do: deleteWarmPool},
		"autoscaling:StartInstanceRefresh":                {mutates: true, do: startRefresh},
		"autoscaling:CancelInstanceRefresh":               {mutates: true, do: cancelRefresh},
		"autoscaling:DescribeInstanceRefreshes":           {do: describeRefreshes},

		"elasticloadbalancing:DescribeTargetHealth": {do: describeTargetHealth},
		"elasticloadbalancing:RegisterTargets":      {mutates: true, do: registerTargets},
		"elasticloadbalancing:DeregisterTargets":    {mutates: true, do: deregisterTargets},

		"sts:GetCallerIdentity": {do: getCallerIdentity},
	}
}

// EC2Handler serves EC2, Auto Scaling, Elastic Load Balancing and STS on one endpoint, told apart
// by the service that the signature is for: what AWS_ENDPOINT_URL names.
func (a *Account) EC2Handler() http.Handler { return http.HandlerFunc(a.serveQuery) }

func (a *Account) serveQuery(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "cannot read the request", http.StatusBadRequest)
		return
	}
	form, _ := url.ParseQuery(string(body)) // what cannot be parsed is missing, and said so
	who, service, authErr := a.authenticate(r, payloadHash(r, body))
	if service == "" || namespace(service) == "" {
		service = "ec2"
	}
	name := form.Get("Action")
	act, known := a.actions[service+":"+name]
	rec := Call{Service: service, Action: name, Resource: mainResource(form),
		DryRun: strings.EqualFold(form.Get("DryRun"), "true"), Mutates: act.mutates}
	byID := form.Has("VolumeId.1") || form.Has("InstanceId.1") || form.Has("SnapshotId.1") // MaxResults and ids exclude each other
	rec.Unpaged = act.pages && !byID && form.Get("MaxResults") == ""
	if authErr == nil {
		rec.Principal = who.Name()
	}
	rec = a.arrive(rec)
	defer func() { a.finish(rec) }() // a broken connection is recorded too
	requestID := a.requestID()
	answer := func(result any, err error) {
		body, status, code := a.render(service, name, requestID, result, err)
		rec.Status, rec.Code = status, code
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		w.Header().Set("X-Amzn-Requestid", requestID)
		w.Header().Set("Date", time.Now().Add(-a.clockOfKey(r)).UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
		w.Write(body) // the client may have left: nothing to be done
	}
	switch {
	case r.Method != http.MethodPost:
		answer(nil, &apiError{"InvalidRequest",
			"The lab takes POST requests only: point an AWS SDK or the AWS CLI at it (AWS_ENDPOINT_URL).", http.StatusMethodNotAllowed})
		return
	case authErr != nil:
		answer(nil, authErr)
		return
	case !known:
		answer(nil, fail("InvalidAction", "The action %s is not valid for this web service.", name))
		return
	}

	// What goes on from here goes on when the client leaves, too, as in EC2.
	effect, fault := a.fault(rec)
	struck := fault != nil
	rec.Faulted = struck
	pause(a.ctx, effect.Delay)
	if struck && !effect.After {
		if err := effect.strike(r, a, rec); err != nil {
			answer(nil, err)
			return
		}
	}
	unfiltered := !act.mutates && form.Get("MaxResults") == "" && form.Get("Filter.1.Name") == "" &&
		(name == "DescribeInstances" || name == "DescribeVolumes" || name == "DescribeSnapshots")
	if err := a.admit(service, name, act.mutates, unfiltered); err != nil {
		answer(nil, err)
		return
	}
	a.mu.Lock()
	kind := a.opts.Latency.Read
	if act.mutates {
		kind = a.opts.Latency.Write
	}
	latency, at := a.sample(kind), a.asOf(name)
	a.mu.Unlock()
	pause(a.ctx, latency/2)
	c := &call{a.ctx, a, service, name, who, newParams(form), rec.DryRun, at.Add(latency / 2), effect.Disk, ""}
	result, err := act.do(c)
	if err != nil {
		a.refused(fault)
	}
	if c.made != "" {
		rec.Resource = c.made
	}
	pause(a.ctx, latency-latency/2)
	if struck && effect.After {
		if err := effect.strike(r, a, rec); err != nil {
			answer(nil, err)
			return
		}
	}
	answer(result, err)
}

// render turns the outcome of an action into an answer.
func (a *Account) render(service, action, requestID string, result any, err error) (body []byte, status int, code string) {
	if err == nil {
		if body, err = encodeAnswer(service, action, requestID, result); err == nil {
			return body, http.StatusOK, ""
		}
	}
	var known *apiError
	if !errors.As(err, &known) {
		a.log.Error("the lab failed", "service", service, "action", action, "error", err)
		known = &apiError{"InternalError", "the lab failed: " + err.Error(), http.StatusInternalServerError}
	}
	body, err = encodeError(service, requestID, known)
	if err != nil {
		a.log.Error("cannot encode an error", "error", err)
	}
	return body, known.Status, known.Code
}

// mainResource returns the id that a request is about.
func mainResource(form url.Values) string {
	for _, name := range []string{
		"VolumeId", "VolumeId.1", "InstanceId", "InstanceId.1", "SnapshotId", "SnapshotId.1", "ResourceId.1",
		"AutoScalingGroupName", "AutoScalingGroupNames.member.1", "InstanceIds.member.1", "TargetGroupArn", "LaunchTemplateId",
	} {
		if v := form.Get(name); v != "" {
			return v
		}
	}
	return ""
}
