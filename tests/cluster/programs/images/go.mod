module meshwright.dev/tests/cluster/programs/images

go 1.25.0
