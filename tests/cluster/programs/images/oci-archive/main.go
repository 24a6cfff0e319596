// Oci-archive writes a container image of a few files, FROM scratch, as an OCI archive to its standard output.
//
//	oci-archive [-compress] [-user 65532] [-entrypoint /program] [-label KEY=VALUE]... NAME FILE[=PATH]...
//	oci-archive -join NAME ARCHIVE...
//
// A file stands in the image at PATH, or at the root under its own name. The first one is the entry point, and tells for which
// machines the image is. A program that needs a loader is refused: there is none beside it. With -compress the image is smaller and
// takes seconds.
//
// With -join, images of one name for several kinds of machines, each in an archive of its own, become one.
//
// It takes the place of a Dockerfile and an image builder: nothing in these images needs a build step, a program of our own needs
// no privileges, no storage and no policy files, takes milliseconds, and gives the same bytes each time.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
	gzippedType  = layerType + "+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// index is a list of images: of an archive, or of one name for several kinds of machines.
type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Manifests     []descriptor `json:"manifests"`
}

// labels are KEY=VALUE arguments.
type labels map[string]string

func (l labels) String() string { return "" }

func (l labels) Set(pair string) error {
	key, value, given := strings.Cut(pair, "=")
	if !given {
		return fmt.Errorf("%q is no KEY=VALUE", pair)
	}
	l[key] = value
	return nil
}

// file is a host's file and where it stands in the image.
type file struct{ host, inside string }

func main() {
	user := flag.String("user", "", "user id that the image's program runs as, unless the pod says another")
	entrypoint := flag.String("entrypoint", "", "path in the image (default: the first file)")
	labels := labels{}
	flag.Var(labels, "label", "KEY=VALUE that the image says of itself")
	compress := flag.Bool("compress", false, "pack the image's files")
	together := flag.Bool("join", false, "make one of archives")
	flag.Parse()
	if flag.NArg() < 2 {
		fail(fmt.Errorf("usage: oci-archive [-compress] [-user ID] [-entrypoint PATH] [-label KEY=VALUE]... NAME FILE[=PATH]... or oci-archive -join NAME ARCHIVE..."))
	}
	if *together {
		fail(join(os.Stdout, flag.Arg(0), flag.Args()[1:]))
		return
	}
	files := make([]file, 0, flag.NArg()-1)
	for _, arg := range flag.Args()[1:] {
		host, inside, given := strings.Cut(arg, "=")
		if !given {
			inside = filepath.Base(host)
		}
		files = append(files, file{host, path.Clean("/" + inside)})
	}
	if *entrypoint == "" {
		*entrypoint = files[0].inside
	}
	fail(write(os.Stdout, flag.Arg(0), *user, *entrypoint, *compress, labels, files))
}

func write(out io.Writer, name, user, entrypoint string, compress bool, labels labels, files []file) error {
	architecture, err := machine(files[0].host)
	if err != nil {
		return err
	}
	layer, err := layer(files)
	if err != nil {
		return err
	}
	inside := map[string]any{
		"User":       user,
		"Entrypoint": []string{entrypoint},
		"WorkingDir": "/",
		"Env":        []string{"PATH=/:/bin:/usr/bin:/usr/local/bin"},
	}
	if len(labels) > 0 {
		inside["Labels"] = labels
	}
	config, err := json.Marshal(map[string]any{
		"architecture": architecture,
		"os":           "linux",
		"config":       inside,
		// An image is known by its files' digest before they are packed.
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return err
	}
	kind := layerType
	if compress {
		kind = gzippedType
		if layer, err = gzipped(layer); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     manifestType,
		"config":        describe(configType, config),
		"layers":        []descriptor{describe(kind, layer)},
	})
	if err != nil {
		return err
	}
	root := describe(manifestType, manifest)
	root.Platform = &platform{architecture, "linux"}
	return archive(out, name, root, [][]byte{layer, config, manifest})
}

// gzipped packs, with no name and no time in it.
func gzipped(content []byte) ([]byte, error) {
	var packed bytes.Buffer
	packer, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := packer.Write(content); err != nil {
		return nil, err
	}
	err = packer.Close()
	return packed.Bytes(), err
}

// join makes of images of several archives one, for all of their kinds of machines.
func join(out io.Writer, name string, archives []string) error {
	list := index{SchemaVersion: 2, MediaType: indexType}
	var blobs [][]byte
	known := map[string]bool{}
	for _, path := range archives {
		files, err := unpack(path)
		if err != nil {
			return err
		}
		var own index
		if err := json.Unmarshal(files["index.json"], &own); err != nil || len(own.Manifests) != 1 {
			return fmt.Errorf("%s is no archive of one image", path)
		}
		image := own.Manifests[0]
		image.Annotations = nil
		if image.Platform == nil || known[image.Platform.Architecture] {
			return fmt.Errorf("%s is for the same machines as another one", path)
		}
		known[image.Platform.Architecture] = true
		list.Manifests = append(list.Manifests, image)
		for _, name := range sorted(files) {
			if strings.HasPrefix(name, "blobs/") {
				blobs = append(blobs, files[name])
			}
		}
	}
	packed, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return archive(out, name, describe(indexType, packed), append(blobs, packed))
}

// archive writes what root leads to, under a name.
func archive(out io.Writer, name string, root descriptor, blobs [][]byte) error {
	// containerd reads the whole name from its own annotation: the standard one may be the tag alone.
	root.Annotations = map[string]string{
		"io.containerd.image.name":          name,
		"org.opencontainers.image.ref.name": name,
	}
	list, err := json.Marshal(index{SchemaVersion: 2, Manifests: []descriptor{root}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	if err := add(archive, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	for _, blob := range blobs {
		if err := add(archive, "blobs/sha256/"+strings.TrimPrefix(digest(blob), "sha256:"), 0o644, blob); err != nil {
			return err
		}
	}
	if err := add(archive, "index.json", 0o644, list); err != nil {
		return err
	}
	return archive.Close()
}

func unpack(path string) (map[string][]byte, error) {
	packed, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	files := map[string][]byte{}
	archive := tar.NewReader(packed)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
}

func sorted(files map[string][]byte) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// machine says for which machines a program is, as images name them.
func machine(path string) (string, error) {
	program, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	defer program.Close()
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static: it needs a loader, and the image holds none", path)
		}
	}
	switch program.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	default:
		return "", fmt.Errorf("%s is for %s; images are for x86-64 and AArch64", path, program.Machine)
	}
}

// layer packs the files and the folders above them, owned by root and without times.
func layer(files []file) ([]byte, error) {
	sort.Slice(files, func(i, j int) bool { return files[i].inside < files[j].inside })
	var packed bytes.Buffer
	archive := tar.NewWriter(&packed)
	folders := map[string]bool{"/": true}
	for _, f := range files {
		if err := addFolders(archive, path.Dir(f.inside), folders); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(f.host)
		if err != nil {
			return nil, err
		}
		if err := add(archive, strings.TrimPrefix(f.inside, "/"), 0o755, content); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return packed.Bytes(), err
}

func addFolders(archive *tar.Writer, folder string, made map[string]bool) error {
	if made[folder] {
		return nil
	}
	if err := addFolders(archive, path.Dir(folder), made); err != nil {
		return err
	}
	made[folder] = true
	return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(folder, "/") + "/", Mode: 0o755})
}

func add(archive *tar.Writer, name string, mode int64, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

func describe(mediaType string, blob []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digest(blob), Size: int64(len(blob))}
}

func digest(blob []byte) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(blob))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "oci-archive:", err)
		os.Exit(1)
	}
}
