// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"

	"github.com/spf13/pflag"

	"xdplvs/internal/api"
)

// addDaemonFlags adds those that say where the daemon is, and who asks it.
func (a *app) addDaemonFlags(flags *pflag.FlagSet) {
	a.flags = flags
	add := func(into *string, name, short, env, usage string) {
		flags.StringVarP(into, name, short, a.getenv(env), usage)
		flags.Lookup(name).DefValue = "" // or help would show the environment's
	}
	add(&a.socket, "socket", "s", envSocket, "the daemon's `PATH` ($"+envSocket+"; default "+api.DefaultSocket+")")
	add(&a.remote.URL, "api", "", envAPI, "`URL` of a daemon over TCP, as https://HOST:PORT, in the place of a socket ($"+envAPI+")")
	add(&a.remote.TokenFile, "token-file", "", envFile, "`FILE` with the token for --api ($"+envFile+", or the token itself in $"+envToken+")")
	add(&a.remote.CAFile, "cacert", "", envCA, "`FILE` with the certificates of the CA that --api's daemon has its own from ($"+envCA+"; default the system's)")
	add(&a.remote.CertFile, "cert", "", envCert, "`FILE` with the client's certificate for --api ($"+envCert+")")
	add(&a.remote.KeyFile, "key", "", envKey, "`FILE` with the key of --cert ($"+envKey+")")
}

var errTwoDaemons = errors.New("--socket and --api (or their variables) name two daemons")

// client is a client for the daemon, who is on a socket of this machine unless the user says otherwise.
func (a *app) client() *api.Client {
	switch both := a.remote.URL != "" && a.socket != ""; {
	case both && a.flags.Changed("api") == a.flags.Changed("socket"):
		return api.Failing(errTwoDaemons)
	case a.remote.URL == "", both && a.flags.Changed("socket"):
		return api.Dial(cmp.Or(a.socket, api.DefaultSocket))
	}
	daemon := a.remote
	if daemon.TokenFile == "" {
		daemon.Token = a.getenv(envToken)
	}
	client, err := api.DialRemote(daemon)
	if err != nil {
		return api.Failing(err)
	}
	return client
}
