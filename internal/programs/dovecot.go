// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"path/filepath"
)

// dovecotConfig is Dovecot with one user, who logs in with TLS only.
const dovecotConfig = `
base_dir = $dir/run
state_dir = $dir/state
protocols = imap pop3
log_path = /dev/stderr
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
first_valid_uid = 1
ssl = yes
ssl_cert = <$dir/cert.pem
ssl_key = <$dir/key.pem
disable_plaintext_auth = yes
auth_failure_delay = 0
passdb {
  driver = passwd-file
  args = $dir/passwords
}
userdb {
  driver = passwd-file
  args = $dir/passwords
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
service imap-login {
  chroot =
}
service pop3-login {
  chroot =
}
`

// MailUser is the user of every Dovecot, whose password is Password.
const MailUser = "joe"

// NewDovecot writes a configuration into a directory with a cert.pem and a key.pem. It goes on with further lines,
// where $dir is the directory; the user's mails are in box.
func NewDovecot(dir, box, further string) (Server, error) {
	path, err := Find("dovecot-imapd", "/usr/sbin/dovecot")
	if err != nil {
		return Server{}, err
	}
	if _, err := Find("dovecot-pop3d", "/usr/lib/dovecot/pop3"); err != nil {
		return Server{}, err
	}
	users := MailUser + ":{PLAIN}" + Password + ":65534:65534::" + filepath.Dir(box) + "::\n"
	if err := Write(filepath.Join(dir, "passwords"), users); err != nil {
		return Server{}, err
	}
	config := filepath.Join(dir, "dovecot.conf")
	err = Write(config, dovecotConfig+"mail_location = maildir:"+box+"\n"+further, "$dir", dir)
	return Server{Path: path, Args: []string{"-F", "-c", config}}, err
}
