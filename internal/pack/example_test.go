package pack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"strings"

	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"
)

// A pack from nothing, with one file: written by the publisher, read by a member.
func Example() {
	const content = "hello\n"
	file := manifest.Entry{
		Path: "index.html", Type: 'f', Mode: 0o644, Modified: 1795651200,
		Size: int64(len(content)), SHA256: sha256.Sum256([]byte(content)),
	}
	changes := func(yield func(manifest.Change, error) bool) {
		yield(manifest.Change{How: manifest.New, Entry: file}, nil)
	}
	contents := func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
	to := strings.Repeat("b2", 32)

	var stored bytes.Buffer
	seal, err := pack.NewSeal(&stored, nil) // not encrypted, as in S3
	if err != nil {
		log.Fatal(err)
	}
	head := pack.Head{To: to, Release: "20261127T010203Z-b2b2b2b2b2b2"}
	if err := pack.Write(context.Background(), seal, head, changes, contents); err != nil {
		log.Fatal(err)
	}
	sum, err := seal.Close() // the signed pointer has it
	if err != nil {
		log.Fatal(err)
	}

	if err := pack.Check(bytes.NewReader(stored.Bytes()), sum); err != nil {
		log.Fatal(err)
	}
	opened, err := pack.Open(&stored, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer opened.Close()
	fmt.Println(opened.Release)
	var files []manifest.Entry
	for change, err := range opened.Changes() { // all of them come first
		if err != nil {
			log.Fatal(err)
		}
		files = append(files, change.Entry)
	}
	for _, file := range files {
		body, err := opened.Content(&file)
		if err != nil {
			log.Fatal(err)
		}
		text, err := io.ReadAll(body)
		fmt.Printf("%s: %q %v\n", file.Path, text, err)
	}
	fmt.Println(opened.End())
	// Output:
	// 20261127T010203Z-b2b2b2b2b2b2
	// index.html: "hello\n" <nil>
	// <nil>
}
