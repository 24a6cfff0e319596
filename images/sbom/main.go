// Sbom writes what a program is made of, as CycloneDX 1.6 in JSON, to its standard output.
//
//	cargo tree --prefix none --format '{p}|{l}' … | sbom [-library NAME@VERSION=LICENCE]... -lock Cargo.lock NAME VERSION PROGRAM
//	sbom NAME VERSION PROGRAM
//
// With -lock, the parts are those that `cargo tree` names on standard input, with the checksums of the lock file; else those
// that the Go linker wrote into the program. It asks no network and no clock: the same program has the same list.
package main

import (
	"bufio"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

type document struct {
	Format      string      `json:"bomFormat"`
	SpecVersion string      `json:"specVersion"`
	Version     int         `json:"version"`
	Metadata    metadata    `json:"metadata"`
	Components  []component `json:"components"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type     string    `json:"type"`
	Ref      string    `json:"bom-ref"`
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Licences []licence `json:"licenses,omitempty"`
	Hashes   []hash    `json:"hashes,omitempty"`
	URL      string    `json:"purl,omitempty"`
}

type licence struct {
	Expression string `json:"expression"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// libraries are what is linked in and no package manager of a language knows.
type libraries []component

func (l *libraries) String() string { return "" }

func (l *libraries) Set(written string) error {
	name, expression, _ := strings.Cut(written, "=")
	name, version, given := strings.Cut(name, "@")
	if !given {
		return fmt.Errorf("%q is no NAME@VERSION=LICENCE", written)
	}
	*l = append(*l, library("generic", name, version, expression, ""))
	return nil
}

func main() {
	var linked libraries
	flag.Var(&linked, "library", "NAME@VERSION=LICENCE of a library that is linked in beside the packages")
	lock := flag.String("lock", "", "Cargo's lock file, for a program in Rust")
	flag.Parse()
	if flag.NArg() != 3 {
		fail(fmt.Errorf("usage: sbom [-library NAME@VERSION=LICENCE]... [-lock Cargo.lock] NAME VERSION PROGRAM"))
	}
	name, version, program := flag.Arg(0), flag.Arg(1), flag.Arg(2)
	var parts []component
	var err error
	if *lock != "" {
		parts, err = crates(os.Stdin, *lock)
	} else {
		parts, err = modules(program)
	}
	fail(err)
	parts = append(parts, linked...)
	sort.Slice(parts, func(i, j int) bool { return parts[i].Ref < parts[j].Ref })
	content, err := os.ReadFile(program)
	fail(err)
	whole := component{
		Type: "container", Ref: name + "@" + version, Name: name, Version: version,
		Licences: []licence{{"Apache-2.0"}},
		Hashes:   []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(content))}},
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	fail(out.Encode(document{"CycloneDX", "1.6", 1, metadata{whole}, parts}))
}

// crates reads lines such as "anyhow v1.0.100|MIT OR Apache-2.0"; after our own names stands their folder.
func crates(tree io.Reader, lock string) ([]component, error) {
	checksums, err := locked(lock)
	if err != nil {
		return nil, err
	}
	var parts []component
	known := map[string]bool{}
	lines := bufio.NewScanner(tree)
	for lines.Scan() {
		which, expression, given := strings.Cut(lines.Text(), "|")
		words := strings.Fields(which)
		if !given || len(words) < 2 {
			return nil, fmt.Errorf("%q names no package: cargo tree --prefix none --format '{p}|{l}'", lines.Text())
		}
		name, version := words[0], strings.TrimPrefix(words[1], "v")
		if known[name+"@"+version] {
			continue
		}
		known[name+"@"+version] = true
		// An old way to write OR.
		expression = strings.ReplaceAll(strings.TrimSuffix(expression, " (*)"), "/", " OR ")
		parts = append(parts, library("cargo", name, version, expression, checksums[name+"@"+version]))
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("cargo tree has named no package on standard input")
	}
	return parts, lines.Err()
}

// locked reads the checksums of Cargo.lock, by "name@version".
func locked(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	checksums := map[string]string{}
	for _, block := range strings.Split(string(text), "[[package]]") {
		fields := map[string]string{}
		for _, line := range strings.Split(block, "\n") {
			if key, value, given := strings.Cut(line, " = "); given {
				fields[key] = strings.Trim(value, `"`)
			}
		}
		checksums[fields["name"]+"@"+fields["version"]] = fields["checksum"]
	}
	return checksums, nil
}

// modules reads what the Go linker says of a program.
func modules(program string) ([]component, error) {
	built, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("%s is no program in Go: %w", program, err)
	}
	parts := []component{library("golang", "std", strings.TrimPrefix(built.GoVersion, "go"), "BSD-3-Clause", "")}
	for _, module := range built.Deps {
		parts = append(parts, library("golang", module.Path, module.Version, "", sum(module.Sum)))
	}
	return parts, nil
}

// sum reads go.sum's form of a SHA-256.
func sum(written string) string {
	digest, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(written, "h1:"))
	if err != nil || len(digest) != sha256.Size {
		return ""
	}
	return fmt.Sprintf("%x", digest)
}

func library(kind, name, version, expression, checksum string) component {
	url := fmt.Sprintf("pkg:%s/%s@%s", kind, name, strings.ReplaceAll(version, "+", "%2B"))
	part := component{Type: "library", Ref: url, Name: name, Version: version, URL: url}
	if expression != "" {
		part.Licences = []licence{{expression}}
	}
	if checksum != "" {
		part.Hashes = []hash{{"SHA-256", checksum}}
	}
	return part
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}
