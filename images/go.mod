module meshwright.dev/images

go 1.26
