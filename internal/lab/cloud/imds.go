package cloud

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The instance metadata service, version 2 only (EC2 User Guide, "Use the Instance Metadata Service
// to access instance metadata"): a session token is PUT with its life in seconds, and every GET
// carries it; without one the answer is 401, as on an instance with HttpTokens=required.

// Life of role credentials. "We make new credentials available at least five minutes before the
// expiration of the old credentials" (EC2 User Guide, "IAM roles for Amazon EC2"); they live for
// about six hours.
const (
	credentialLife  = 6 * time.Hour
	credentialRenew = time.Hour
)

const (
	tokenPath   = "/latest/api/token"
	maxTokenTTL = 21600 // seconds: six hours
)

// IMDSHandler serves the metadata of one instance: what it finds at http://169.254.169.254.
func (a *Account) IMDSHandler(instanceID string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serveMetadata(instanceID, w, r) })
}

func (a *Account) serveMetadata(instanceID string, w http.ResponseWriter, r *http.Request) {
	rec := a.arrive(Call{Service: "imds", Action: r.Method + " " + r.URL.Path, Principal: instanceID, Mutates: r.Method == http.MethodPut})
	defer func() { a.finish(rec) }()
	reply := func(status int, body string) {
		rec.Status = status
		if status != http.StatusOK {
			rec.Code = http.StatusText(status)
		}
		w.Header().Set("Server", "EC2ws")
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
	effect, fault := a.fault(rec)
	struck := fault != nil
	rec.Faulted = struck
	a.mu.Lock()
	latency := a.sample(a.opts.Latency.IMDS)
	a.mu.Unlock()
	pause(a.ctx, latency+effect.Delay)
	if struck { // reading changes nothing: before and after are the same here
		if err := effect.strike(r, a, rec); err != nil {
			reply(err.Status, err.Message)
			return
		}
	}
	status, body, header := a.metadata(instanceID, r)
	for key, value := range header {
		w.Header().Set(key, value)
	}
	reply(status, body)
}

func (a *Account) metadata(instanceID string, r *http.Request) (status int, body string, header map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.instances.get(instanceID)
	m := a.machines[instanceID]
	if !ok || m == nil {
		return http.StatusNotFound, "", nil
	}
	const ttlHeader = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	if r.URL.Path == tokenPath {
		ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
		switch {
		case r.Method != http.MethodPut:
			return http.StatusMethodNotAllowed, "", nil
		case r.Header.Get("X-Forwarded-For") != "": // "PUT requests that contain an X-Forwarded-For header are not accepted"
			return http.StatusForbidden, "", nil
		case err != nil || ttl < 1 || ttl > maxTokenTTL:
			return http.StatusBadRequest, "", nil
		}
		token := "AQAEA" + a.token(51)
		m.tokens[token] = time.Now().Add(time.Duration(ttl) * time.Second)
		return http.StatusOK, token, map[string]string{ttlHeader: strconv.Itoa(ttl)}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return http.StatusMethodNotAllowed, "", nil
	}
	if expires, ok := m.tokens[r.Header.Get("X-Aws-Ec2-Metadata-Token")]; !ok || time.Now().After(expires) {
		return http.StatusUnauthorized, "", nil
	}
	body, ok = a.metadatum(i, m, strings.TrimSuffix(r.URL.Path, "/"))
	if !ok {
		return http.StatusNotFound, "", nil
	}
	return http.StatusOK, body, nil
}

// metadatum returns one entry; a directory is the list of what is in it. mu is held.
func (a *Account) metadatum(i Instance, m *machine, path string) (string, bool) {
	switch path {
	case "/latest/user-data":
		return string(i.UserData), len(i.UserData) > 0 // 404 without user data
	case "/latest/dynamic/instance-identity/document":
		return a.identityDocument(i), true
	}
	leaves := map[string]string{
		"ami-id":                      i.ImageID,
		"hostname":                    privateName(i, a.opts.Region),
		"instance-action":             "none",
		"instance-id":                 i.ID,
		"instance-life-cycle":         "on-demand",
		"instance-type":               i.Type,
		"local-hostname":              privateName(i, a.opts.Region),
		"local-ipv4":                  i.Address.String(),
		"mac":                         macOf(i.ID),
		"placement/availability-zone": i.Zone,
		"placement/region":            a.opts.Region,
		"reservation-id":              i.Reservation,
		"services/domain":             "amazonaws.com",
		"services/partition":          "aws",
		// Volumes attached since the last start are not listed ("Instance metadata categories",
		// block-device-mapping/ebsN).
		"block-device-mapping/ami":  strings.TrimPrefix(rootDevice, "/dev/"),
		"block-device-mapping/root": rootDevice,
	}
	for n, device := range a.mappedDevices(i) {
		leaves[fmt.Sprintf("block-device-mapping/ebs%d", n+1)] = strings.TrimPrefix(device, "/dev/")
	}
	if i.Role != "" {
		leaves["iam/info"] = asJSON(map[string]string{
			"Code": "Success", "LastUpdated": stamp(i.Launched),
			"InstanceProfileArn": a.profileARN(i.Role), "InstanceProfileId": "AIPA" + strings.ToUpper(i.Role),
		})
		leaves["iam/security-credentials/"+i.Role] = "" // minted below, when it is asked for
	}
	if g, member, ok := a.memberOf(i.ID); ok && g.Name != "" {
		leaves["autoscaling/target-lifecycle-state"] = targetState(g, member)
	}
	if i.MetadataTags { // "By default, instance tags are not accessible" ("View tags for your EC2 instances using instance metadata")
		for key, value := range i.Tags {
			leaves["tags/instance/"+key] = value
		}
	}
	name, ok := strings.CutPrefix(path, "/latest/meta-data")
	if !ok {
		return "", false
	}
	name = strings.TrimPrefix(name, "/")
	if i.Role != "" && name == "iam/security-credentials/"+i.Role {
		return a.roleCredentials(i, m), true
	}
	if v, ok := leaves[name]; ok {
		return v, true
	}
	if name != "" {
		name += "/"
	}
	entries := map[string]bool{}
	for leaf := range leaves {
		if rest, ok := strings.CutPrefix(leaf, name); ok {
			first, _, directory := strings.Cut(rest, "/")
			if directory {
				first += "/"
			}
			entries[first] = true
		}
	}
	return strings.Join(sortedKeys(entries), "\n"), len(entries) > 0
}

func (a *Account) identityDocument(i Instance) string {
	return asJSON(map[string]any{
		"accountId": a.opts.AccountID, "architecture": "x86_64", "availabilityZone": i.Zone, "imageId": i.ImageID,
		"instanceId": i.ID, "instanceType": i.Type, "pendingTime": stamp(i.Launched),
		"privateIp": i.Address.String(), "region": a.opts.Region, "version": "2017-09-30",
		"billingProducts": nil, "devpayProductCodes": nil, "kernelId": nil, "marketplaceProductCodes": nil, "ramdiskId": nil,
	})
}

// roleCredentials returns the temporary keys of an instance's role. mu is held.
func (a *Account) roleCredentials(i Instance, m *machine) string {
	now := time.Now()
	if m.role.Expires.Before(now.Add(credentialRenew)) {
		sum := sha256.Sum256([]byte(i.Role))
		m.role = a.mint("ASIA", Principal{
			Account: a.opts.AccountID, InstanceID: i.ID, Role: i.Role,
			ARN:    fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", a.opts.AccountID, i.Role, i.ID),
			UserID: "AROA" + strings.ToUpper(hex.EncodeToString(sum[:]))[:17] + ":" + i.ID,
		}, now.Add(credentialLife))
	}
	return asJSON(map[string]string{
		"Code": "Success", "LastUpdated": stamp(now), "Type": "AWS-HMAC",
		"AccessKeyId": m.role.AccessKeyID, "SecretAccessKey": m.role.SecretAccessKey,
		"Token": m.role.SessionToken, "Expiration": stamp(m.role.Expires),
	})
}

// targetState is the lifecycle state that a member is on its way to ("Retrieve the target lifecycle
// state through instance metadata": "Warmed:Hibernated, Warmed:Running, Warmed:Stopped, and
// Warmed:Terminated" with a warm pool).
func targetState(g Group, m Member) string {
	switch {
	case m.leaving() && m.warmed():
		return "Warmed:Terminated"
	case m.rests():
		return m.State
	case m.warmed() && g.Pool != nil:
		return "Warmed:" + g.Pool.State
	case m.warmed():
		return "Warmed:Terminated"
	case m.leaving():
		return "Terminated"
	case strings.HasSuffix(m.State, "Standby"):
		return "Standby"
	}
	return "InService"
}

func macOf(instanceID string) string {
	sum := sha256.Sum256([]byte(instanceID))
	return fmt.Sprintf("0e:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// stamp is the form of times in metadata documents.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func asJSON(v any) string {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // maps of strings cannot fail
		return ""
	}
	return string(out)
}
