// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"xdplvs/test/stage"
)

const (
	givesUp        = 2 * time.Second // a client
	requestsBefore = 40              // and afterwards, to each family
	askers         = 4               // to each family, at a time
	askPause       = 20 * time.Millisecond
)

// request is one that was made.
type request struct {
	begun time.Time
	took  time.Duration
	who   string // answered
	err   error
}

// load is clients that ask all the time.
type load struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	requests []request
}

// startLoad has clients ask both services.
func (s *Stage) startLoad(ctx context.Context) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	client := s.Client.HTTPClient(givesUp)
	for _, service := range webServices {
		for range askers {
			l.running.Go(func() { l.keepAsking(ctx, client, url("http", service.vip, "/")) })
		}
	}
	return l
}

func (l *load) keepAsking(ctx context.Context, client *http.Client, to string) {
	for stage.Sleep(ctx, askPause) == nil {
		r := request{begun: time.Now()}
		r.who, r.err = ask(client, to)
		r.took = time.Since(r.begun)
		l.mu.Lock()
		l.requests = append(l.requests, r)
		l.mu.Unlock()
	}
}

// ask gives who answers.
func ask(client *http.Client, to string) (string, error) {
	answer, err := client.Get(to)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", to, answer.Status)
	}
	who, _, _ := strings.Cut(string(text), " ")
	return who, err
}

// await waits until so many requests more were made.
func (l *load) await(ctx context.Context, more int) error {
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.requests)
	}
	want := count() + len(webServices)*more
	return Await(ctx, func() error {
		if got := count(); got < want {
			return fmt.Errorf("%d requests were made, want %d", got, want)
		}
		return nil
	})
}

// stop returns when nobody asks any more.
func (l *load) stop() {
	l.cancel()
	l.running.Wait()
}
