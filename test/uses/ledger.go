// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"xdplvs/internal/netlab"
	"xdplvs/internal/programs"
	"xdplvs/test/stage"
)

// The application's account, and the ports of its two services.
const (
	appUser    = "app"
	writePort  = 3306
	readPort   = 3307
	ledgerTime = 5 * time.Second // that a statement may take
)

// ledger is a program that writes 1, 2, 3 and so on into a table, each with a value that follows from it, and reads all
// of it all the time. It checks every answer, and does what was not confirmed again.
type ledger struct {
	table         string
	writes, reads *sql.DB

	mu           sync.Mutex
	tried, acked int // the last entry that was begun, and the last that was confirmed
	again        int // writes that had to be repeated
	answers      int // of reads
	unanswered   int
	allowed      map[int]bool // servers that may answer; nil: all
	fault        error        // the first answer that was wrong
}

// openDatabase is a client of a database on a host. Each statement makes a connection of its own.
func openDatabase(h *netlab.Host, at netip.AddrPort, user string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr = user, programs.Password, "tcp", at.String()
	c.Timeout, c.ReadTimeout, c.WriteTimeout = ledgerTime, ledgerTime, ledgerTime
	c.DialFunc = h.DialContext
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(-1)
	return db, nil
}

func newLedger(h *netlab.Host, vip netip.Addr, table string) (*ledger, error) {
	writes, err := openDatabase(h, netip.AddrPortFrom(vip, writePort), appUser)
	if err != nil {
		return nil, err
	}
	reads, err := openDatabase(h, netip.AddrPortFrom(vip, readPort), appUser)
	return &ledger{table: table, writes: writes, reads: reads}, err
}

// valueOf is what stands beside a number.
func valueOf(n int) int { return n * 40503 % 65536 }

// run writes and reads until ctx ends.
func (l *ledger) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { l.repeat(ctx, l.write) })
	both.Go(func() { l.repeat(ctx, l.read) })
	both.Wait()
	l.writes.Close()
	l.reads.Close()
}

func (l *ledger) repeat(ctx context.Context, do func(context.Context)) {
	for stage.Sleep(ctx, 20*time.Millisecond) == nil {
		do(ctx)
	}
}

// write adds the next entry. Who is not told that it is written writes it again, which changes nothing if it was.
func (l *ledger) write(ctx context.Context) {
	l.mu.Lock()
	l.tried = l.acked + 1
	n := l.tried
	l.mu.Unlock()
	_, err := l.writes.ExecContext(ctx, fmt.Sprintf("REPLACE INTO %s VALUES (%d, %d)", l.table, n, valueOf(n)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.again++
		return
	}
	l.acked = n
}

// read asks for all of it.
func (l *ledger) read(ctx context.Context) {
	var server, count, last, sum int
	l.mu.Lock()
	allowed := l.allowed
	l.mu.Unlock()
	query := "SELECT @@server_id, COUNT(*), COALESCE(MAX(n), 0), COALESCE(SUM(value), 0) FROM " + l.table
	err := l.reads.QueryRowContext(ctx, query).Scan(&server, &count, &last, &sum)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unanswered++
		return
	}
	l.answers++
	if l.fault == nil {
		l.fault = l.judge(allowed, server, count, last, sum)
	}
}

// judge looks at an answer to a question that these servers could be asked. l.mu is held.
func (l *ledger) judge(allowed map[int]bool, server, count, last, sum int) error {
	want := 0
	for n := 1; n <= last; n++ {
		want += valueOf(n)
	}
	switch {
	case count != last || sum != want:
		return fmt.Errorf("%s: server %d has %d entries up to %d with the sum %d, want %d", l.table, server, count, last, sum, want)
	case last > l.tried:
		return fmt.Errorf("%s: server %d has the entry %d, which nobody has written", l.table, server, last)
	case allowed != nil && !allowed[server]:
		return fmt.Errorf("%s: server %d has answered a read", l.table, server)
	}
	return nil
}

// allow says which servers may answer reads that are sent from now on.
func (l *ledger) allow(servers ...int) {
	allowed := map[int]bool{}
	for _, id := range servers {
		allowed[id] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed = allowed
}

// state is how far the program has come.
func (l *ledger) state() (acked, answers int, fault error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.answers, l.fault
}

// String tells how it goes.
func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%-8s %5d entries written, %d of them after a repetition; %5d reads answered, %d had to be repeated", l.table, l.acked, l.again, l.answers, l.unanswered)
}

// awaitMore waits until so many more entries are written and reads answered, all of them rightly.
func (l *ledger) awaitMore(ctx context.Context, n int) error {
	acked, answers, _ := l.state()
	return Await(ctx, func() error {
		nowAcked, nowAnswers, fault := l.state()
		if fault == nil && (nowAcked < acked+n || nowAnswers < answers+n) {
			return fmt.Errorf("not enough done: %v", l)
		}
		return nil
	})
}
