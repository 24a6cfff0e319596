module meshwright.dev/tests/foreign/http

go 1.26.0
