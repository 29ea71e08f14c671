// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"xdplvs/director"
	"xdplvs/internal/netlab"
	"xdplvs/internal/programs"
)

// mail is a farm of mail servers.
var mail = Use{
	Name:    "mail",
	Summary: "Postfix and Dovecot: SMTP with the clients' addresses, POP3 and IMAP with persistence",
	Methods: []director.Method{director.DirectRouting, director.Tunnel, director.NAT},
	Reals:   3,
	Tell:    tellMail,
}

// mailConfig is Postfix's, which delivers mails for example.org into one mailbox. Its clients are looked at first of all.
const mailConfig = `
myhostname = $name.example.org
mydestination =
inet_interfaces = all
inet_protocols = all
smtpd_delay_reject = no
virtual_mailbox_domains = example.org
virtual_mailbox_maps = static:box/
virtual_mailbox_base = $dir/home
virtual_minimum_uid = 100
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
`

// smtpListener is the line of master.cf.
const smtpListener = "smtp inet n - n - - smtpd\n"

// boxesConfig goes on where Dovecot's configuration ends.
const boxesConfig = `listen = *, ::
login_greeting = $name ready
`

// mailServer is Postfix and Dovecot on a real server.
type mailServer struct {
	*Stage
	real   *Real
	smtp   programs.Server
	dir    string // Postfix's
	box    string
	master *programs.Process
}

// startMail starts both on a real server.
func (s *Stage) startMail(r *Real) (*mailServer, error) {
	dir, err := s.directory(r)
	if err != nil {
		return nil, err
	}
	m := &mailServer{Stage: s, real: r, dir: filepath.Join(dir, "postfix")}
	home, dovecot := filepath.Join(m.dir, "home"), filepath.Join(dir, "dovecot")
	m.box = filepath.Join(home, "box")
	for _, path := range []string{m.dir, home, dovecot} {
		if err := errors.Join(os.Mkdir(path, 0o755), programs.Give(path, 0o755)); err != nil {
			return nil, err
		}
	}
	if m.smtp, err = programs.NewPostfix(m.dir, strings.ReplaceAll(mailConfig, "$name", r.Name()), smtpListener); err != nil {
		return nil, err
	}
	if err := m.startSMTP(); err != nil {
		return nil, err
	}
	if err := programs.Certificate(dovecot, "mail.example.org"); err != nil {
		return nil, err
	}
	boxes, err := programs.NewDovecot(dovecot, m.box, strings.ReplaceAll(boxesConfig, "$name", r.Name()))
	if err != nil {
		return nil, err
	}
	_, err = s.serve(r, boxes)
	return m, err
}

// startSMTP starts Postfix, with the queue that it has.
func (m *mailServer) startSMTP() (err error) {
	m.master, err = m.serve(m.real, m.smtp)
	return err
}

// kill is kill -9 for all of Postfix.
func (m *mailServer) kill() error {
	err := programs.SignalPostfix(m.dir, syscall.SIGKILL)
	m.master.Kill()
	return err
}

// restrict changes what Postfix says to everybody who connects, as in "421 4.3.2 going down"; nothing: it is as usual.
func (m *mailServer) restrict(ctx context.Context, reply string) error {
	restriction := ""
	if reply != "" {
		restriction = "check_client_access static:{" + reply + "}"
	}
	config := filepath.Join(m.dir, "config")
	if _, err := m.Output(ctx, m.real.Host, "postconf", "-c", config, "-e", "smtpd_client_restrictions="+restriction); err != nil {
		return err
	}
	_, err := m.Output(ctx, m.real.Host, "postfix", "-c", config, "reload")
	return err
}

// delivered are the mails in the mailbox, by file name.
func (m *mailServer) delivered() (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(m.box, "new", "*"))
	if err != nil {
		return nil, err
	}
	mails := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		mails[file] = string(text)
	}
	return mails, nil
}

// mailFarm is all of it.
type mailFarm struct {
	*Stage
	servers []*mailServer
	senders []*sender
}

func tellMail(ctx context.Context, s *Stage) error {
	f := &mailFarm{Stage: s}
	for _, r := range s.Reals {
		m, err := s.startMail(r)
		if err != nil {
			return err
		}
		f.servers = append(f.servers, m)
	}
	f.senders = []*sender{newSender(s.Client, VIP4, "v4"), newSender(s.Client, VIP6, "v6")}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	if err := f.awaitServing(ctx, 0, 1, 2); err != nil {
		return err
	}
	for _, tell := range []func(context.Context) error{f.tellDelivery, f.tellIdent, f.tellTrouble, f.tellBoxes} {
		if err := tell(ctx); err != nil {
			return err
		}
	}
	return s.Show(ctx, "list")
}

// awaitServing waits until just these servers get mail, in both families.
func (f *mailFarm) awaitServing(ctx context.Context, numbers ...int) error {
	for _, service := range []string{"smtp", "smtp6"} {
		if err := f.AwaitUsable(ctx, service, f.Addrs(f.vipOf(service), numbers...)...); err != nil {
			return err
		}
	}
	return nil
}

// tellDelivery sends some mails, which tell who brought them.
func (f *mailFarm) tellDelivery(ctx context.Context) error {
	f.Screen.Step("Mails are sent", "swaks is the client. Each server sees the client's own address, as blocklists want it.")
	for _, s := range f.senders {
		for range 6 {
			if err := s.send(ctx); err != nil {
				return err
			}
		}
	}
	if err := f.awaitDelivered(ctx); err != nil {
		return err
	}
	for _, m := range f.servers {
		mails, err := m.delivered()
		if err != nil {
			return err
		}
		f.Screen.Block(fmt.Sprintf("%s has %d mails", m.real.Name(), len(mails)))
		if len(mails) == 0 {
			return fmt.Errorf("%s got no mail", m.real.Name())
		}
		if err := f.wantClients(mails); err != nil {
			return fmt.Errorf("%s: %w", m.real.Name(), err)
		}
	}
	return nil
}

// wantClients fails unless all mails were received from the client.
func (f *mailFarm) wantClients(mails map[string]string) error {
	for _, text := range mails {
		if !strings.Contains(text, "["+Client4.String()+"]") && !strings.Contains(text, "[IPv6:"+Client6.String()+"]") {
			return fmt.Errorf("a mail was not received from the client's address:\n%s", text)
		}
	}
	return nil
}

// tellIdent asks who sends, as mail servers do that get mail from this address.
func (f *mailFarm) tellIdent(ctx context.Context) error {
	f.Screen.Step("Somebody asks for the sender by ident", "TCP 113 of the virtual addresses is reset at once: nobody waits.")
	return f.eachVIP(func(vip netip.Addr) error {
		conn, err := f.Client.DialContext(ctx, "tcp", netip.AddrPortFrom(vip, 113).String())
		if err == nil {
			conn.Close()
			return fmt.Errorf("port 113 of %v is open", vip)
		}
		f.Screen.Block(err.Error())
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("want a reset: %w", err)
		}
		return nil
	})
}

// tellTrouble drains a server, with one of the methods, and kills another one while mails are sent all the time.
func (f *mailFarm) tellTrouble(ctx context.Context) error {
	sending, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, s := range f.senders {
		running.Go(func() { s.run(sending) })
	}
	var err error
	if f.Method == f.Use.Methods[0] {
		err = f.tellDrain(ctx)
	}
	if err == nil {
		err = f.tellKill(ctx)
	}
	cancel()
	running.Wait()
	if err != nil {
		return err
	}
	f.Screen.Step("Every mail is there", "None is lost. One that was sent again, because nobody had said that it was taken, may be there once for each time.")
	if err := f.awaitDelivered(ctx); err != nil {
		return err
	}
	for _, s := range f.senders {
		f.Screen.Block(s.String())
	}
	return nil
}

// tellDrain lets a server say 421, while it is in the middle of a mail.
func (f *mailFarm) tellDrain(ctx context.Context) error {
	f.Screen.Step("rs2 says 421", "It is about to go down. It gets no new connections; a conversation that there is goes on.")
	open, err := f.converse(ctx, VIP4, f.servers[1])
	if err != nil {
		return err
	}
	defer open.Close()
	if err := f.servers[1].restrict(ctx, "421 4.3.2 Going down"); err != nil {
		return err
	}
	if err := f.awaitServing(ctx, 0, 2); err != nil {
		return err
	}
	if err := errors.Join(f.Show(ctx, "health"), open.finish(), f.progress(ctx, 3)); err != nil {
		return err
	}
	f.Screen.Step("rs2 is well again", "It gets mails again.")
	if err := f.servers[1].restrict(ctx, ""); err != nil {
		return err
	}
	return f.awaitServing(ctx, 0, 1, 2)
}

// tellKill kills a server in the middle of everything, and starts it again: what it had taken is in its queue.
func (f *mailFarm) tellKill(ctx context.Context) error {
	f.Screen.Step("kill -9 of Postfix on rs3", "Conversations with it are reset, and clients send again.")
	if err := f.progress(ctx, 3); err != nil {
		return err
	}
	if err := f.servers[2].kill(); err != nil {
		return err
	}
	if err := f.awaitServing(ctx, 0, 1); err != nil {
		return err
	}
	if err := errors.Join(f.Show(ctx, "health"), f.progress(ctx, 3)); err != nil {
		return err
	}
	f.Screen.Step("Postfix is started again on rs3", "It delivers what it had taken.")
	if err := f.servers[2].startSMTP(); err != nil {
		return err
	}
	return errors.Join(f.awaitServing(ctx, 0, 1, 2), f.progress(ctx, 3))
}

// progress waits until so many more mails were taken from each sender.
func (f *mailFarm) progress(ctx context.Context, n int) error {
	for _, s := range f.senders {
		before := s.taken()
		if err := Await(ctx, func() error {
			if now := s.taken(); now < before+n {
				return fmt.Errorf("%d of %d mails were taken: %v", now-before, n, s)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// awaitDelivered waits until every mail that was taken is in a mailbox, and fails where one is there more often than it was sent.
func (f *mailFarm) awaitDelivered(ctx context.Context) error {
	return Await(ctx, func() error {
		copies := map[string]int{}
		for _, m := range f.servers {
			mails, err := m.delivered()
			if err != nil {
				return err
			}
			for _, text := range mails {
				copies[subject(text)]++
			}
		}
		for _, s := range f.senders {
			if err := s.compare(copies); err != nil {
				return err
			}
		}
		return nil
	})
}

// clients are further addresses of a host's eth0 in the family of another one.
func clients(h *netlab.Host, family netip.Addr, n int) (list []netip.Addr, err error) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})
		if family.Is6() {
			a = addr(fmt.Sprintf("2001:db8:c::%d", 10+i))
		}
		if err := h.AddAddr("eth0", netip.PrefixFrom(a, networkBits(a))); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}
