package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

func (p *program) keyCommand() *cobra.Command {
	show := &cobra.Command{
		Use:   "show",
		Short: "Show the public key, and whether the pointer is signed by it",
		Long: `Show the public key of this store, the line that makes an agent believe it
before it has a volume (trusted-keys), and whether the pointer in the store is
signed by it. The secret key is never shown.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.withKeys(cmd.Context(), p.keyShow) },
	}
	var lost bool
	initialise := &cobra.Command{
		Use:   "init",
		Short: "Make the keys of a store from before there were any",
		Long: `Make the keys of a store from before there were any, as ` + "`ebs-release init`" + `
does for a new one: the secret one in the file signing-key, the public one on
the release volume. Nothing else changes. Then sign the pointer with
` + "`ebs-release key sign`" + `: until that is done nothing can be published. Before it,
upgrade the agents: those from before signed pointers cannot read one, and
instances that launch with such an agent do not boot.

With --lost the release volume believes a new key instead of one that is lost.
Members, and snapshots from before, believe only the lost one; so publish after
` + "`key sign`" + `: members that this reaches by ssh get the new key. Replace the
others, or run ` + "`ebs-release-agent up --older`" + ` there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withKeys(cmd.Context(), func(ctx context.Context, k keyring) error { return p.keyInit(ctx, k, lost) })
		},
	}
	initialise.Flags().BoolVar(&lost, "lost", false, "the key file is lost, and there is no copy: make another key, which takes its place")
	var yes bool
	signs := &cobra.Command{
		Use:   "sign",
		Short: "Sign the pointer that lies in the store, after a look at it",
		Long: `Sign the pointer that lies in the store, when it is not signed, or by a key that
is not believed any more. It shows what the pointer says and asks first; without
a terminal it wants --yes. The generation stays. Look well: who is allowed to
write to the store decides what lies there, and members boot what is signed.
Refused are a pointer of a lower generation than the release volume has had, of
another store, and one whose release is another one on the release volume.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withKeys(cmd.Context(), func(ctx context.Context, k keyring) error { return p.keySign(ctx, k, cmd.InOrStdin(), yes) })
		},
	}
	signs.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cli.Group("key", "Show, make or rotate the key that signs the pointer, or sign", show, initialise, signs, p.keyRotateCommand())
}

// keyring is what the verbs of keys work on.
type keyring struct {
	values config.Values
	place  string // of the store
	store  *pointer.Store
	volume *release.Volume
	keys   server.Keys
	id     string // of the store; "": it has none yet
}

// withKeys opens them. That the volume is of another store is an error.
func (p *program) withKeys(ctx context.Context, do func(context.Context, keyring) error) error {
	values, err := p.settings("pointer-store")
	if err != nil {
		return err
	}
	k := keyring{values: values, place: values.Get("pointer-store")}
	if k.store, err = openStore(ctx, k.place, later(ctx)); err != nil {
		return err
	}
	k.volume, err = release.Open(values.Get("mount-point"))
	if err != nil {
		return exit.With(exit.Unchanged, err)
	}
	defer func() { _ = k.volume.Close() }()
	if err := k.check(ctx); err != nil {
		return before(ctx, err)
	}
	return do(ctx, k)
}

func (k *keyring) check(ctx context.Context) error {
	if _, err := k.volume.Releases(); err != nil {
		return advice.Try(err, "ebs-release init, or mount the release volume")
	}
	k.keys = server.Keys{Path: k.values.Get("signing-key"), On: k.volume}
	o := server.Ownership{Directory: k.place}
	var err error
	if o.Own, err = k.store.ID(ctx); err != nil {
		return err
	}
	if o.File, err = k.volume.StoreID(); err != nil {
		return err
	}
	if o.Own == "" { // on a new server in the place of a lost one
		o.Own = o.File
	}
	k.id, err = o.Decide()
	return err
}

// keyReport is what `key show --output json` prints.
type keyReport struct {
	Schema  int           `json:"schema"`
	Store   string        `json:"store"` // its id; empty: it has none yet
	File    string        `json:"file"`  // of the secret key
	Signs   string        `json:"signs"` // the key in it, if this server believes it, the newest: its short id
	Problem string        `json:"problem,omitempty"`
	Keys    []keyShown    `json:"keys"` // that this server believes
	Pointer pointerShown  `json:"pointer"`
	again   pointer.Found // to be signed
}

type keyShown struct {
	ID      string `json:"id"`
	Public  string `json:"public"`
	Trusted string `json:"trusted"` // an item of the agent's trusted-keys; empty: the store has no id yet
}

// pointerShown is the pointer in the store, as far as its signature matters.
type pointerShown struct {
	Generation int64    `json:"generation"` // 0: nothing is published
	Signed     bool     `json:"signed"`     // by a key that this server believes
	SignedBy   []string `json:"signed_by"`  // what it says
}

func (k keyring) look(ctx context.Context) (keyReport, error) {
	r := keyReport{Schema: status.Schema, Store: k.id, File: k.keys.Path, Keys: []keyShown{}}
	ring, err := k.keys.Open()
	switch {
	case err != nil && len(ring.Trusted) == 0:
		return r, err
	case err != nil:
		r.Problem = err.Error()
	case len(ring.Signing) > 0:
		r.Signs = ring.Signing[0].Public().ID()
	}
	for _, key := range ring.Trusted {
		shown := keyShown{ID: key.ID(), Public: key.String()}
		if k.id != "" {
			shown.Trusted = k.id + ":" + shown.Public
		}
		r.Keys = append(r.Keys, shown)
	}
	if r.again, err = k.store.Look(ctx); err != nil {
		return r, err
	}
	r.Pointer = pointerShown{r.again.Generation, r.again.CheckSignature(ring.Trusted) == nil, slices.Concat([]string{}, r.again.SignedBy())}
	return r, nil
}

func (p *program) keyShow(ctx context.Context, k keyring) error {
	report, err := k.look(ctx)
	if err != nil {
		return err
	}
	if p.output == cli.JSON {
		return p.printJSON(report)
	}
	rows := [][]string{{"store", cmp.Or(report.Store, "-")}}
	for _, key := range report.Keys {
		where := ""
		if key.ID == report.Signs {
			where = ", in " + report.File
		}
		rows = append(rows, []string{"key", key.ID + where}, []string{"public", key.Public}, []string{"trusted-keys", cmp.Or(key.Trusted, "-")})
	}
	if len(report.Keys) == 0 {
		rows = append(rows, []string{"key", advice.Text("none: the pointer is not signed", server.TryKeyInit)})
	}
	rows = append(rows, []string{"pointer", report.Pointer.says()})
	if report.Problem != "" {
		rows = append(rows, []string{"problem", printable(report.Problem)})
	}
	return cli.PrintTable(p.stdout, rows)
}

func (s pointerShown) says() string {
	switch {
	case s.Generation == 0:
		return "nothing is published yet"
	case s.Signed:
		return fmt.Sprintf("generation %d, signed by %s", s.Generation, strings.Join(s.SignedBy, ", "))
	case len(s.SignedBy) > 0:
		return fmt.Sprintf("generation %d, NOT signed by a key of this store; it says that it is signed by %s",
			s.Generation, strings.Join(s.SignedBy, ", "))
	}
	return fmt.Sprintf("generation %d, not signed", s.Generation)
}

// keyInitReport is what `key init --output json` prints.
type keyInitReport struct {
	Schema int      `json:"schema"`
	Did    []string `json:"did"`
	Next   string   `json:"next,omitempty"` // what is to be done now
}

func (p *program) keyInit(ctx context.Context, k keyring, lost bool) error {
	return p.changeKeys(ctx, k, verbKeyInit, func(did func(string, ...any)) (next string, err error) {
		if lost {
			err = k.keys.Replace(ctx, did)
		}
		if err == nil {
			err = k.keys.Make(ctx, !pointer.InS3(k.place), did)
		}
		if err != nil {
			return "", err
		}
		shown, err := k.look(ctx)
		if err == nil && shown.Pointer.Generation > 0 && !shown.Pointer.Signed {
			next = "the pointer is not signed by it yet, and nothing can be published before: ebs-release key sign"
		}
		return next, err
	})
}

// lock keeps publishes out.
func (k keyring) lock(ctx context.Context) (func() error, error) {
	unlock, err := lockPublish(k.volume)
	if err != nil {
		return nil, before(ctx, err)
	}
	return unlock, nil
}

func (p *program) keySign(ctx context.Context, k keyring, in io.Reader, yes bool) (err error) {
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	ring, err := k.keys.Open()
	if err == nil && len(ring.Signing) == 0 {
		err = advice.Try(fmt.Errorf("the release volume %s has no keys", k.volume.Root()), server.TryKeyInit)
	}
	if err != nil {
		return before(ctx, err)
	}
	report, err := k.look(ctx)
	if err != nil {
		return before(ctx, err)
	}
	if !report.Pointer.Signed {
		if err := p.confirm(ctx, k, report.again, in, yes); err != nil {
			return before(ctx, err)
		}
		report.again.Store = k.id // a pointer from before ids has none
		k.store.SignWith(ring.Trusted, ring.Signing...)
		err := k.store.SignFound(ctx, report.again)
		if errors.Is(err, pointer.ErrConflict) {
			return exit.With(exit.Conflict, err)
		}
		p.record(ctx, k.store, pointer.Entry{
			Verb: verbKeySign, Message: "signed by key " + server.IDs(ring.Trusted), Result: ended(err), Generation: report.again.Generation,
		})
		if err != nil {
			return err
		}
		if report, err = k.look(ctx); err != nil {
			return err
		}
	}
	if p.output == cli.JSON {
		return p.printJSON(report)
	}
	_, err = fmt.Fprintln(p.stdout, report.Pointer.says())
	return err
}

// confirm refuses what cannot be this store's, shows what would be signed, and asks.
func (p *program) confirm(ctx context.Context, k keyring, found pointer.Found, in io.Reader, yes bool) error {
	known, err := k.known(found.Pointer)
	if err != nil {
		return err
	}
	rows := [][]string{
		{"generation", fmt.Sprint(found.Generation)}, {"release", found.Release}, {"", known}, {"digest", found.Digest},
		{"made", fmt.Sprintf("%s by %s", found.Created.UTC().Format(time.RFC3339), cmp.Or(printable(found.By), "-"))},
		{"message", cmp.Or(printable(found.Message), "-")},
	}
	for region, id := range found.Snapshots {
		of := ""
		if h := found.SnapshotOf; h != nil {
			of = fmt.Sprintf(", of generation %d, release %s", h.Generation, h.Release)
		}
		rows = append(rows, []string{"snapshot", id + " in " + region + of})
	}
	if len(found.Edges) > 0 {
		last := found.Edges[len(found.Edges)-1]
		rows = append(rows, []string{"packs", fmt.Sprintf("%d, the last to release %s of %s", len(found.Edges), last.Release,
			last.Made.UTC().Format(time.RFC3339))})
	}
	rows = append(rows, []string{"signed by", cmp.Or(strings.Join(found.SignedBy(), ", "), "-")})
	if err := cli.PrintTable(p.stderr, rows); err != nil || yes {
		return err
	}
	file, ok := in.(*os.File)
	if ok {
		_, ok = words.Terminal(file)
	}
	if !ok {
		return advice.Try(errors.New("there is nobody to ask whether this pointer is right"), "--yes, when you know that it is")
	}
	fmt.Fprint(p.stderr, "Sign this, so that members boot it? Type yes: ")
	answer := make(chan string, 1)
	go func() { // ends with the line that is typed, or the process
		line, _ := bufio.NewReader(file).ReadString('\n') // what is not yes is no
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case said := <-answer:
		if said != "yes" {
			return errors.New("it was not signed, as you did not say yes")
		}
		return nil
	}
}

// known says what the release volume knows of a pointer.
func (k keyring) known(p pointer.Pointer) (string, error) {
	fence, id, err := k.volume.Fence()
	switch {
	case err != nil:
		return "", err
	case p.Generation == 0:
		return "", errors.New("nothing has been published yet: there is no pointer to sign")
	case p.Generation < fence:
		return "", advice.Try(fmt.Errorf("the pointer is at generation %d, and the release volume has had %d (%s): it is an old one",
			p.Generation, fence, id),
			"put the newer release.json back; or remove it from the store, and publish again")
	case p.Store != "" && p.Store != k.id:
		return "", fmt.Errorf("the pointer is of store %s, and the release volume of store %s", cmp.Or(p.Store, "-"), cmp.Or(k.id, "-"))
	}
	digest, err := k.volume.ManifestDigest(p.Release)
	switch {
	case err != nil:
		return "the release volume does NOT have this release, so nobody here knows whether it is right", nil //nolint:nilerr // said
	case digest != p.Digest:
		return "", advice.Try(fmt.Errorf("the release volume has %s too, and that is another one: its digest is %s, the pointer says %s",
			p.Release, digest, p.Digest),
			"look who wrote it (ebs-release history); remove release.json from the store, and publish again")
	}
	return "which the release volume has, too", nil
}
