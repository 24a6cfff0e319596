// Pause is the first process of every pod's sandbox, and of the test cluster's own PID namespace: it waits for
// a signal to stop, and reaps the processes whose parents died before them, as the first process of a PID namespace must.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for {
		// Before the first signal too: children may have died before we listened.
		reap()
		if <-signals != syscall.SIGCHLD {
			return
		}
	}
}

// reap collects every child that has ended. One SIGCHLD can stand for several of them.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
