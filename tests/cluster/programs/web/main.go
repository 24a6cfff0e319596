// Web is the application of the cluster tests: a server, and a client for where it runs, since there is no other program in its image.
//
//	web serve ADDRESS...    answers each request with the pod's name, the method and the path
//	web get URL             prints the status and the body of one answer
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	switch {
	case len(os.Args) >= 3 && os.Args[1] == "serve":
		serve(os.Args[2:])
	case len(os.Args) == 3 && os.Args[1] == "get":
		get(os.Args[2])
	default:
		fail(fmt.Errorf("usage: web serve ADDRESS... | web get URL"))
	}
}

func serve(addresses []string) {
	name, err := os.Hostname()
	fail(err)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", name, r.Method, r.URL.Path)
	})
	for _, address := range addresses {
		server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		go func() { fail(server.ListenAndServe()) }()
	}
	// The first process of a container dies of no signal that it does not ask for.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func get(url string) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(url)
	fail(err)
	defer response.Body.Close()
	fmt.Println(response.StatusCode)
	_, err = io.Copy(os.Stdout, io.LimitReader(response.Body, 1<<20))
	fail(err)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}
