// Oci-archive writes a container image of a few files, FROM scratch, as an OCI archive to its standard output.
//
//	oci-archive [-user 65532] [-entrypoint /program] NAME FILE[=PATH]...
//
// A file stands in the image at PATH, or at the root under its own name. The first one is the entry point.
//
// It takes the place of a Dockerfile and an image builder: nothing in these images needs a build step, a program of our own needs
// no privileges, no storage and no policy files, takes milliseconds, and gives the same bytes each time.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// file is a host's file and where it stands in the image.
type file struct{ host, inside string }

func main() {
	user := flag.String("user", "", "user id that the image's program runs as, unless the pod says another")
	entrypoint := flag.String("entrypoint", "", "path in the image (default: the first file)")
	flag.Parse()
	if flag.NArg() < 2 {
		fail(fmt.Errorf("usage: oci-archive [-user ID] [-entrypoint PATH] NAME FILE[=PATH]..."))
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
	fail(write(os.Stdout, flag.Arg(0), *user, *entrypoint, files))
}

func write(out io.Writer, name, user, entrypoint string, files []file) error {
	layer, err := layer(files)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"User":       user,
			"Entrypoint": []string{entrypoint},
			"WorkingDir": "/",
			"Env":        []string{"PATH=/:/bin:/usr/bin:/usr/local/bin"},
		},
		// An image is known by its files' digest before they are packed, and here they are not packed.
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        describe("application/vnd.oci.image.config.v1+json", config),
		"layers":        []descriptor{describe("application/vnd.oci.image.layer.v1.tar", layer)},
	})
	if err != nil {
		return err
	}
	root := describe("application/vnd.oci.image.manifest.v1+json", manifest)
	// containerd reads the whole name from its own annotation: the standard one may be the tag alone.
	root.Annotations = map[string]string{
		"io.containerd.image.name":          name,
		"org.opencontainers.image.ref.name": name,
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{root}})
	if err != nil {
		return err
	}

	archive := tar.NewWriter(out)
	if err := add(archive, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	for _, blob := range [][]byte{layer, config, manifest} {
		if err := add(archive, "blobs/sha256/"+strings.TrimPrefix(digest(blob), "sha256:"), 0o644, blob); err != nil {
			return err
		}
	}
	if err := add(archive, "index.json", 0o644, index); err != nil {
		return err
	}
	return archive.Close()
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
