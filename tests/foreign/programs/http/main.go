// A server of HTTP/1.1 and, with prior knowledge or after an upgrade of none, HTTP/2. It writes down
// what it sees of every request.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What was seen, one request at a time.
type notes struct {
	sync.Mutex
	file *os.File
}

func (n *notes) write(r *http.Request, body string) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %s\nhost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
	headers(&text, "", r.Header)
	fmt.Fprintf(&text, "framed as %v, %d\n%s\n", r.TransferEncoding, r.ContentLength, body)
	headers(&text, "trailer ", r.Trailer)
	n.Lock()
	defer n.Unlock()
	fmt.Fprintln(n.file, text.String())
}

func headers(to io.Writer, kind string, headers http.Header) {
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, value := range headers[name] {
			fmt.Fprintf(to, "%s%s: %s\n", kind, name, value)
		}
	}
}

// Asks for the next event.
var next = make(chan struct{}, 1)

// answer answers a request whose body was read, or is empty.
func answer(w http.ResponseWriter, r *http.Request, size int64) {
	switch strings.Trim(r.URL.Path, "/") {
	case "page":
		w.Header().Add("Set-Cookie", "a=1; Path=/")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("X-Mixed-Case", "Grüße")
		fmt.Fprintln(w, "a page")
	case "page/old":
		http.Redirect(w, r, "/page?from=old", http.StatusFound)
	case "page/away":
		http.Redirect(w, r, "http://"+r.Host+"/page", http.StatusPermanentRedirect)
	case "tagged":
		w.Header().Set("ETag", `"one"`)
		if r.Header.Get("If-None-Match") == `"one"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintln(w, "tagged")
	case "nothing":
		w.WriteHeader(http.StatusNoContent)
	case "failure":
		http.Error(w, "as asked", http.StatusTeapot)
	case "early":
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprintln(w, "after a hint")
	case "chunks":
		for i := range 3 {
			fmt.Fprintf(w, "chunk %d\n", i)
			w.(http.Flusher).Flush()
		}
	case "trailers":
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintln(w, "before trailers")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "42")
	case "bytes":
		count, _ := strconv.ParseInt(r.URL.Query().Get("count"), 10, 64)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(count, 10))
		io.CopyN(w, pattern{}, count)
	case "events":
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache")
		for i := range 3 {
			fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", i, i)
			w.(http.Flusher).Flush()
			// Whoever reads events has each while there are more to come.
			select {
			case <-next:
			case <-r.Context().Done():
			}
		}
	case "next":
		next <- struct{}{}
		w.WriteHeader(http.StatusNoContent)
	case "upload":
		fmt.Fprintf(w, "%d bytes\n", size)
	default:
		http.NotFound(w, r)
	}
}

// Bytes that say where they are.
type pattern struct{}

func (pattern) Read(into []byte) (int, error) {
	for i := range into {
		into[i] = byte(i * 7)
	}
	return len(into), nil
}

func main() {
	file, err := os.OpenFile(os.Getenv("SAW"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	seen := &notes{file: file}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			// Before the body is asked for.
			seen.write(r, "refused")
			w.Header().Set("Connection", "close")
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		sum := sha256.New()
		size, err := io.Copy(sum, r.Body)
		seen.write(r, fmt.Sprintf("%d bytes %x %v", size, sum.Sum(nil), err))
		answer(w, r, size)
	}
	server := &http.Server{
		Addr:              ":8080",
		Handler:           http.HandlerFunc(handler),
		Protocols:         &protocols,
		ReadHeaderTimeout: time.Minute,
	}
	log.Fatal(server.ListenAndServe())
}
