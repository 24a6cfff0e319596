// A client of HTTP/1.1 as net/http has it by default, of the server beside it. It prints what it sees.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptrace"
	"os"
	"sort"
	"strings"
)

// ask prints the answer to a request, and whether it came over a connection that was used before.
func ask(client *http.Client, what string, request *http.Request) {
	reused := false
	trace := &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) { reused = got.Reused },
	}
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
	answer, err := client.Do(request)
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
	fmt.Printf("== %s, over a connection that was used before: %v\n", what, reused)
	fmt.Printf("from %s\n%s %s\n", answer.Request.URL.RequestURI(), answer.Proto, answer.Status)
	headers("", answer.Header)
	fmt.Printf("\n%d bytes: %q\n", len(body), body)
	// Go knows the names of trailers by the line that announces them.
	kind := "trailer "
	if what == "trailers unasked" {
		kind = "unasked-trailer-"
	}
	headers(kind, answer.Trailer)
}

func headers(kind string, headers http.Header) {
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, value := range headers[name] {
			fmt.Printf("%s%s: %s\n", kind, name, value)
		}
	}
}

func get(path string) *http.Request {
	return with(http.MethodGet, path, nil)
}

func with(method, path string, body io.Reader) *http.Request {
	request, err := http.NewRequest(method, os.Getenv("URL")+path, body)
	if err != nil {
		log.Fatal(err)
	}
	return request
}

// pieces is a body of a length that is not known beforehand, and so goes in chunks.
func pieces() io.Reader {
	reader, writer := io.Pipe()
	go func() {
		for i := range 3 {
			fmt.Fprintf(writer, "piece %d %s\n", i, strings.Repeat("x", 10_000*i))
		}
		writer.Close()
	}()
	return reader
}

func main() {
	log.SetFlags(0)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	client := &http.Client{Transport: transport}

	for range 3 {
		ask(client, "a page", get("/page"))
	}
	ask(client, "chunks", get("/chunks"))
	ask(client, "HEAD", with(http.MethodHead, "/page", nil))
	ask(client, "no such page", get("/page/none"))
	ask(client, "a body in chunks", with(http.MethodPost, "/upload", pieces()))
	ask(client, "a body of a length", with(http.MethodPost, "/upload", strings.NewReader("a=1")))
	ask(client, "a redirect", get("/page/old"))
	ask(client, "a redirect of a body", with(http.MethodPost, "/page/away", strings.NewReader("a=1")))

	asked := get("/trailers")
	asked.Header.Set("TE", "trailers")
	ask(client, "trailers", asked)
	ask(client, "trailers unasked", get("/trailers"))

	waited := with(http.MethodPost, "/upload", strings.NewReader("waited for"))
	waited.Header.Set("Expect", "100-continue")
	ask(client, "a body that is waited for", waited)
	trailed := with(http.MethodPost, "/upload", pieces())
	trailed.Trailer = http.Header{"X-Sum": {"42"}}
	ask(client, "a body with trailers", trailed)

	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("not followed")
	}
	if _, err := client.Do(get("/page/old")); err == nil || !strings.HasSuffix(err.Error(), "not followed") {
		log.Fatalf("a redirect that is not followed: %v", err)
	}
}
