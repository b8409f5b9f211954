package host

import (
	"net/http"
	"net/netip"
)

// Spec says what a host is made of.
type Spec struct {
	ID       string // its instance id: the name of its directory and its console
	Hostname string
	Address  netip.Addr   // in the network's subnet
	Layers   []string     // directories below Network.Path, laid over the machine's own root file system, the first one on top
	Binds    []Bind       // directories of the machine that the host sees
	Env      []string     // environment of all that the host runs, as NAME=value
	Metadata http.Handler // answers http://169.254.169.254/, nil without one

	FirstBoot []Service // run at the first boot only, before Boot: host keys
	Boot      []Service // run one after the other at each boot
}

// Bind shows a directory of the machine, read-only, at a place in the host.
type Bind struct{ Source, Target string }

// Service is a program that a boot runs, like a unit of systemd.
type Service struct {
	Name   string
	Argv   []string
	Env    []string // besides the host's
	Notify bool     // gets $NOTIFY_SOCKET: see Host.Notices
	Daemon bool     // runs on while the boot goes on; else the boot waits for it, and ends in failure when it fails
	Port   int      // of a daemon: the boot is through only when something listens on it; 0: none
}

// order is what the lab tells the first process of a host.
type order struct {
	Hostname  string
	Directory string // the host's directory, as the network's thread sees it
	Layers    []string
	Binds     []Bind
	Env       []string
	Boot      []Service
}

// event is what the first process of a host tells the lab, one JSON line each.
type event struct {
	Booted bool   `json:"booted"` // Boot went through
	Failed string `json:"failed"` // it did not: why
	Notify string `json:"notify"` // a service said this to its manager (sd_notify): READY=1
}
