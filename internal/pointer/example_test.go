package pointer_test

import (
	"fmt"
	"log"
	"strings"

	"ebs-release/internal/pointer"
)

// A store's pointer is signed, and read by whoever trusts the key.
func Example() {
	key, err := pointer.NewKey()
	if err != nil {
		log.Fatal(err)
	}
	p := pointer.Pointer{
		Schema: pointer.Signed, Store: "0123456789abcdef", Generation: 7, Revision: 12,
		Release: "20261127T010203Z-a1a1a1a1a1a1", Digest: strings.Repeat("a1", 32),
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
	}
	document, err := p.Sign(key)
	if err != nil {
		log.Fatal(err)
	}
	back, err := pointer.Parse(document)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(back.Generation, back.Snapshots["eu-west-1"], pointer.CheckSignature(document, []pointer.PublicKey{key.Public()}))

	other, err := pointer.NewKey()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(pointer.CheckSignature(document, []pointer.PublicKey{other.Public()}) != nil)
	// Output:
	// 7 snap-0123456789abcdef0 <nil>
	// true
}

// While a rollout is open, For says which of the two releases an instance is to have.
func ExamplePointer_For() {
	first, second := pointer.Instance{ID: "i-0aa", Zone: "eu-west-1a"}, pointer.Instance{ID: "i-0bb", Zone: "eu-west-1a"}
	p := pointer.Pointer{Generation: 7, Release: "20261127T010203Z-a1a1a1a1a1a1", Digest: strings.Repeat("a1", 32)}
	rollout := pointer.Rollout{
		Held:  pointer.Held{Generation: 8, Release: "20261128T010203Z-b2b2b2b2b2b2", Digest: strings.Repeat("b2", 32)},
		Steps: []pointer.Step{{Members: 1}, {Percent: 100}},
	}
	for members := range 3 {
		raised := rollout.Raised([]pointer.Instance{first, second}, members)
		p.Rollout = &raised
		fmt.Println(members, "of 2:", p.For(first).Generation+p.For(second).Generation-14, "on generation 8")
	}
	// Output:
	// 0 of 2: 0 on generation 8
	// 1 of 2: 1 on generation 8
	// 2 of 2: 2 on generation 8
}
