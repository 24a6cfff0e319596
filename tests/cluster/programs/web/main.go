// Web is the application of the cluster tests: a server, and a client for where it runs, since there is no other program in its image.
//
//	web serve ADDRESS...    answers each request with the pod's name, the method and the path, after the time that ?wait=100ms says
//	                        and gRPC health checks of the service "orders"; of that it is well until it is asked for /fail.
//	                        What is asked for with ?from=URL it asks that URL for, and answers what that has answered
//	                        An event that is posted to /on/HOST it passes on: HOST is asked for /hook/ID, and says that it was called.
//	                        Of one to /on/HOST/1s it says only a second later what HOST has answered
//	                        What is asked for below /status/ is answered with that status
//	web get URL             prints the status and the body of one answer
//	web post URL            the same of a POST without a body
//	web load URL INTERVAL   begins a request at each interval, whatever became of those before, until its input ends: see load
//	web who URL INTERVAL    the same; beside each 200 is said who has answered
//	web publish URL INTERVAL    the same, with an event in each, of an id of its own: it is said beside each 202
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A request that has no answer by then is a failure.
const limit = 5 * time.Second

// The most requests of one load, so that it ends even if nobody ends it.
const most = 100_000

// The most requests of one load that are under way at a time.
const together = 32

// How long it goes on as if nothing were, once it is to end: who calls learns only then that it does, and what has been connected and
// not accepted when it stops listening is reset by the kernel.
const lingers = time.Second

// How long it may take to end after that.
const ends = 3 * time.Second

func main() {
	switch {
	case len(os.Args) >= 3 && os.Args[1] == "serve":
		serve(os.Args[2:])
	case len(os.Args) == 3 && os.Args[1] == "get":
		ask(http.MethodGet, os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "post":
		ask(http.MethodPost, os.Args[2])
	case len(os.Args) == 4 && (os.Args[1] == "load" || os.Args[1] == "who"):
		load(os.Args[3], func(client *http.Client, number int) (int, string) {
			status, said := once(client, os.Args[2])
			switch who, _, _ := strings.Cut(said, " "); {
			case status != http.StatusOK:
				return status, fmt.Sprintf("%q", said)
			case os.Args[1] == "who":
				return status, who
			default:
				return status, ""
			}
		})
	case len(os.Args) == 4 && os.Args[1] == "publish":
		began := time.Now().UnixMilli()
		load(os.Args[3], func(client *http.Client, number int) (int, string) {
			return publish(client, os.Args[2], fmt.Sprintf("%d-%d", began, number))
		})
	default:
		fail(fmt.Errorf("usage: web serve ADDRESS... | web get URL | web post URL | web load URL INTERVAL | web who URL INTERVAL | web publish URL INTERVAL"))
	}
}

func serve(addresses []string) {
	name, err := os.Hostname()
	fail(err)
	var failed atomic.Bool
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/fail":
			failed.Store(true)
		case r.URL.Path == "/live" && failed.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/grpc.health.v1.Health/Check":
			health(w, r, failed.Load())
			return
		case strings.HasPrefix(r.URL.Path, "/hook/"):
			fmt.Println("called", r.URL.Path)
		case strings.HasPrefix(r.URL.Path, "/on/"):
			host, wait, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/on/"), "/")
			pass(w, r, "http://"+host+"/hook/"+url.PathEscape(r.Header.Get("Ce-Id")))
			if wait, err := time.ParseDuration(wait); err == nil {
				time.Sleep(min(wait, limit))
			}
			return
		case strings.HasPrefix(r.URL.Path, "/status/"):
			if status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/status/")); err == nil && status >= 200 && status < 600 {
				w.WriteHeader(status)
			}
		}
		if from := r.URL.Query().Get("from"); from != "" {
			pass(w, r, from)
			return
		}
		if wait, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
			time.Sleep(min(wait, limit))
		}
		fmt.Fprintf(w, "%s %s %s\n", name, r.Method, r.URL.Path)
	})
	var servers []*http.Server
	for _, address := range addresses {
		server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		servers = append(servers, server)
		go func() {
			if err := server.ListenAndServe(); err != http.ErrServerClosed {
				fail(err)
			}
		}()
	}
	// The first process of a container dies of no signal that it does not ask for.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	time.Sleep(lingers)
	// As an application should: what it has begun to answer it answers to the end.
	ending, cancel := context.WithTimeout(context.Background(), ends)
	defer cancel()
	var ended sync.WaitGroup
	for _, server := range servers {
		ended.Go(func() { server.Shutdown(ending) })
	}
	ended.Wait()
}

// health answers in the frames of gRPC: HealthCheckResponse{status: SERVING or NOT_SERVING} of HealthCheckRequest{service: "orders"}.
func health(w http.ResponseWriter, r *http.Request, failed bool) {
	asked, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	status := byte(1)
	if failed {
		status = 2
	}
	code := "0"
	if err == nil && string(asked) == "\x00\x00\x00\x00\x08\x0a\x06orders" {
		w.Write([]byte{0, 0, 0, 0, 2, 8, status})
	} else {
		code = "5"
	}
	w.Header().Set("Grpc-Status", code)
}

// A connection for each: on one that was used before, the client would repeat a failed request and say nothing of it.
var alone = http.Transport{DisableKeepAlives: true}

// pass asks somebody else, and answers what that has answered.
func pass(w http.ResponseWriter, r *http.Request, from string) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, from, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response, err := alone.RoundTrip(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.WriteHeader(response.StatusCode)
	io.Copy(w, response.Body)
}

func ask(method, url string) {
	client := http.Client{Timeout: limit}
	request, err := http.NewRequest(method, url, nil)
	fail(err)
	response, err := client.Do(request)
	fail(err)
	defer response.Body.Close()
	fmt.Println(response.StatusCode)
	_, err = io.Copy(os.Stdout, io.LimitReader(response.Body, 1<<20))
	fail(err)
}

// load begins a request at each interval, whatever became of those before, but never has more than so many under way: a machine
// that is too slow for the interval is asked as much as it can answer, and no more. It prints a line for each request when it has
// ended: when it began and when it ended, in milliseconds since 1970, and its status, or 0, with what went wrong. It ends by itself
// when it has begun the most that it may.
func load(interval string, one func(client *http.Client, number int) (int, string)) {
	pause, err := time.ParseDuration(interval)
	fail(err)
	if pause <= 0 {
		fail(fmt.Errorf("%s is no interval", interval))
	}
	client := http.Client{Timeout: limit, Transport: &alone}
	lines := make(chan string)
	var asked sync.WaitGroup
	underWay := make(chan struct{}, together)
	ask := func(number int) {
		defer func() {
			<-underWay
			asked.Done()
		}()
		began := time.Now().UnixMilli()
		status, said := one(&client, number)
		lines <- fmt.Sprintf("%d %d %d %s", began, time.Now().UnixMilli(), status, said)
	}
	go func() {
		ended := make(chan struct{})
		go func() {
			io.Copy(io.Discard, os.Stdin)
			close(ended)
		}()
		tick := time.NewTicker(pause)
	begin:
		for number := range most {
			underWay <- struct{}{}
			asked.Add(1)
			go ask(number)
			select {
			case <-tick.C:
			case <-ended:
				break begin
			}
		}
		asked.Wait()
		close(lines)
	}()
	for line := range lines {
		fmt.Println(line)
	}
}

// once asks once, reads the whole answer, and returns its status, or 0, and what it says, or what went wrong.
func once(client *http.Client, url string) (int, string) {
	response, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// publish posts an event of that id, and returns the status of the answer, or 0, and the id, or what went wrong.
func publish(client *http.Client, to, id string) (int, string) {
	request, err := http.NewRequest(http.MethodPost, to, strings.NewReader("{}"))
	fail(err)
	attributes := map[string]string{"Specversion": "1.0", "Id": id, "Source": "/web", "Type": "com.shop.counted"}
	for name, value := range attributes {
		request.Header.Set("Ce-"+name, value)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Sprintf("%q", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Sprintf("%q", err)
	}
	if response.StatusCode == http.StatusAccepted {
		return response.StatusCode, id
	}
	return response.StatusCode, fmt.Sprintf("%q", body)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}
