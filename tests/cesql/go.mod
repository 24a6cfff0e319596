module meshwright.dev/tests/cesql

go 1.26

require github.com/cloudevents/sdk-go/sql/v2 v2.16.1
