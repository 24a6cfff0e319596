// A client of NATS: it subscribes, publishes, and asks for an answer.
package main

import (
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const patience = 20 * time.Second

func main() {
	connection, err := nats.Connect(os.Args[1])
	must(err)
	defer connection.Close()
	letters, err := connection.SubscribeSync("letters.>")
	must(err)
	answerer, err := connection.Subscribe("questions", func(question *nats.Msg) {
		must(question.Respond([]byte("re: " + string(question.Data))))
	})
	must(err)
	defer answerer.Unsubscribe()
	for _, size := range []int{0, 1, 100_000} {
		must(connection.Publish("letters.a", []byte(strings.Repeat("x", size))))
		letter, err := letters.NextMsg(patience)
		must(err)
		fmt.Println(letter.Subject, len(letter.Data))
	}
	answer, err := connection.Request("questions", []byte("who?"), patience)
	must(err)
	fmt.Println(string(answer.Data))
	_, err = connection.Request("nobody", nil, patience)
	fmt.Println(err)
	must(connection.Drain())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
