// Command inventory knows what is in stock. It is written in another language than the rest of the
// shop, with nothing but the standard library: what calls it, and what stands between, is none of
// its business.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// stock holds how many there are of each item.
type stock struct {
	mu    sync.Mutex
	items map[string]int
}

func main() {
	log.SetFlags(0)
	s := &stock{items: map[string]int{"teapot": 1000, "lamp": 1000, "kettle": 1000}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{item}", s.show)
	mux.HandleFunc("POST /items/{item}/reserve", s.reserve)
	// Left over from a test; nobody in the shop should call it. See routes.yaml.
	mux.HandleFunc("DELETE /items/{item}", s.remove)

	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	address := net.JoinHostPort(or(os.Getenv("HOST"), "0.0.0.0"), or(os.Getenv("PORT"), "8080"))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatalf("inventory can't listen on %s: %v", address, err)
	}
	log.Printf("inventory listens on %s", address)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ended <- server.Shutdown(drain)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatalf("inventory: %v", err)
	}
	<-ended
	log.Print("inventory has ended")
}

func (s *stock) show(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n, known := s.items[r.PathValue("item")]
	s.mu.Unlock()
	s.answer(w, r.PathValue("item"), n, known)
}

func (s *stock) reserve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n, known := s.items[r.PathValue("item")]
	if n > 0 {
		n--
		s.items[r.PathValue("item")] = n
	}
	s.mu.Unlock()
	s.answer(w, r.PathValue("item"), n, known)
}

func (s *stock) remove(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	delete(s.items, r.PathValue("item"))
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (s *stock) answer(w http.ResponseWriter, item string, n int, known bool) {
	w.Header().Set("Content-Type", "application/json")
	if !known {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"error": "no such item"})
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"item": item, "inStock": n})
}

// or returns the first text that is not empty.
func or(text, otherwise string) string {
	if text != "" {
		return text
	}
	return otherwise
}
