module meshwright.dev/tests/cluster/programs/web

go 1.25.0
