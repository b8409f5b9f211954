package hook

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// Owner is the owner of a tree as who runs programs, for root; nil: they run as who runs this.
func Owner(uid, gid int) (*User, error) {
	if os.Geteuid() != 0 || uid == 0 {
		return nil, nil
	}
	u := &User{UID: uid, GID: gid}
	known, err := user.LookupId(strconv.Itoa(uid))
	if err != nil { // it has a number only
		return u, nil
	}
	u.Env = []string{"HOME=" + known.HomeDir, "USER=" + known.Username, "LOGNAME=" + known.Username}
	groups, err := known.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", known.Username, err)
	}
	for _, id := range groups {
		if n, err := strconv.Atoi(id); err == nil {
			u.Groups = append(u.Groups, n)
		}
	}
	if n, err := strconv.Atoi(known.Gid); err == nil {
		u.GID = n
	}
	return u, nil
}

// PlainEnvironment is what programs of a user inherit: nothing that only the agent needs, or may
// know, such as a proxy or keys of AWS. Another user has names of his own; nil: the own one.
func PlainEnvironment(another *User) []string {
	names := []string{"PATH", "LANG"}
	if another == nil {
		names = append(names, "HOME", "USER", "LOGNAME")
	}
	inherit := []string{}
	for _, name := range names {
		if value, is := os.LookupEnv(name); is {
			inherit = append(inherit, name+"="+value)
		}
	}
	return inherit
}
