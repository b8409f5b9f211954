package packaging_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// example is a directory of HCL: what it declares and what it refers to. The references have the
// form in which a declaration is named: var.region, local.hook, data.aws_partition.current,
// aws_instance.server.
type example struct {
	declared  map[string]hcl.Range
	used      map[string]hcl.Range
	variables map[string]*hclsyntax.Block
	strings   map[string]hcl.Range // literal strings
	templates []template
}

// template is a call of templatefile.
type template struct {
	path string
	gets []string
	at   hcl.Range
}

func TestTerraformExampleHoldsTogether(t *testing.T) {
	e := parseExample(t, "terraform", ".tf")
	e.check(t)
	if len(e.templates) == 0 {
		t.Error("found no templatefile: does this look for the right thing?")
	}
	wanted := regexp.MustCompile(`[$%]\{ *([a-z_]+)`)
	for _, tt := range e.templates {
		var wants []string
		for _, m := range wanted.FindAllStringSubmatch(read(t, tt.path), -1) {
			if !slices.Contains([]string{"if", "endif"}, m[1]) { // directives
				wants = append(wants, m[1])
			}
		}
		slices.Sort(wants)
		slices.Sort(tt.gets)
		if wants = slices.Compact(wants); !slices.Equal(wants, tt.gets) {
			t.Errorf("%s: %s wants %v and gets %v", tt.at, tt.path, wants, tt.gets)
		}
	}
	if !slices.Contains(slices.Collect(maps.Keys(e.declared)), "aws_iam_role_policy.agent") {
		t.Error("the example has no aws_iam_role_policy.agent")
	}
}

// TestTerraformExampleGrantsWhatIsCalled: beside the policies of the project, which
// TestPoliciesNameTheCallsOfThePrograms is about, the example grants the rights on a key that the
// agent names when they are missing.
func TestTerraformExampleGrantsWhatIsCalled(t *testing.T) {
	e := parseExample(t, "terraform", ".tf")
	for _, want := range []string{"/../iam/agent.json", "/../iam/publisher.json", "/../iam/bucket.json", "/../iam/launch-hook.json", "/../iam/launch-template.json"} {
		if _, ok := e.strings[want]; !ok {
			t.Errorf("nothing has the policy %s", want)
		}
	}
	hint := read(t, "../internal/volume/wait.go")
	granted := map[string]bool{}
	for s, at := range e.strings {
		if !regexp.MustCompile(`^[a-z0-9]+:[A-Z][A-Za-z]+\*?$`).MatchString(s) {
			continue
		}
		switch {
		case s == "sts:AssumeRole": // EC2's, to take on the role
		case s == "kms:GrantIsForAWSResource": // a condition key
		case strings.HasPrefix(s, "kms:") && strings.Contains(hint, s):
			granted[s] = true
		default:
			t.Errorf("%s grants %s, which nothing calls", at, s)
		}
	}
	for _, right := range regexp.MustCompile(`kms:[A-Za-z]+\*?`).FindAllString(hint, -1) {
		if !granted[right] {
			t.Errorf("the agent says that %s may be missing, and the example does not grant it", right)
		}
	}
}

// TestPackerExamplesHoldTogether: each file is a template of its own.
func TestPackerExamplesHoldTogether(t *testing.T) {
	for _, name := range []string{"member", "server"} {
		t.Run(name, func(t *testing.T) {
			e := parseExample(t, "packer", name+".pkr.hcl")
			e.check(t)
			for _, need := range []string{"useradd --uid 2000", "cloud-init status --wait", "ssh_clear_authorized_keys = true"} {
				if !strings.Contains(read(t, "packer/"+name+".pkr.hcl"), need) {
					t.Errorf("the image has no %q", need)
				}
			}
			if _, ok := e.strings["source.amazon-ebs."+name]; !ok {
				t.Errorf("the build has not the source amazon-ebs.%s", name)
			}
			if _, ok := e.declared["source.amazon-ebs."+name]; !ok {
				t.Errorf("there is no source amazon-ebs.%s", name)
			}
		})
	}
}

// TestExamplesAreClosed: metadata by token only, nothing on a disk in the clear, and no way in from
// everywhere.
func TestExamplesAreClosed(t *testing.T) {
	for path, needs := range map[string][]string{
		"packer/member.pkr.hcl": {`http_tokens                 = "required"`, `imds_support = "v2.0"`, "encrypt_boot  = true"},
		"packer/server.pkr.hcl": {`http_tokens                 = "required"`, `imds_support = "v2.0"`, "encrypt_boot  = true"},
		"terraform/members.tf":  {`http_tokens                 = "required"`},
		"terraform/server.tf":   {`http_tokens                 = "required"`, "encrypted = true"},
	} {
		for _, need := range needs {
			if !strings.Contains(read(t, path), need) {
				t.Errorf("%s does not say %s", path, need)
			}
		}
	}
	for _, path := range []string{"terraform/members.tf", "terraform/server.tf"} {
		if strings.Contains(read(t, path), "0.0.0.0/0") {
			t.Errorf("%s names 0.0.0.0/0", path)
		}
	}
}

// TestExamplesBringVolumes: whichever way EC2 brings one, it goes with the instance, as nobody else
// removes it; and it is no part of an example where members make their own.
func TestExamplesBringVolumes(t *testing.T) {
	for path, needs := range map[string][]string{
		"packer/member.pkr.hcl": {`dynamic "ami_block_device_mappings"`, "var.release_snapshot == null ? [] : [1]", "= var.release_snapshot\n"},
		"terraform/members.tf":  {`dynamic "block_device_mappings"`, "var.brought_size == null ? [] : [1]", "= var.brought_size\n"},
	} {
		_, mapping, _ := strings.Cut(read(t, path), needs[0])
		mapping, _, _ = strings.Cut(mapping, "\n  }\n")
		for _, need := range append(needs[1:], "delete_on_termination = true") {
			if !strings.Contains(mapping, need) {
				t.Errorf("%s: the mapping has no %q", path, need)
			}
		}
	}
}

// parseExample reads all files of a directory with the given end.
func parseExample(t *testing.T, directory, end string) example {
	t.Helper()
	e := example{map[string]hcl.Range{}, map[string]hcl.Range{}, map[string]*hclsyntax.Block{}, map[string]hcl.Range{}, nil}
	files, err := filepath.Glob(filepath.Join(directory, "*"+end))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no files %s in %s: %v", end, directory, err)
	}
	parser := hclparse.NewParser()
	for _, path := range files {
		file, diags := parser.ParseHCLFile(path)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if text := []byte(read(t, path)); !bytes.Equal(hclwrite.Format(text), text) {
			t.Errorf("%s is not formatted; run: terraform fmt %s", path, path)
		}
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			e.declare(block)
			if diags := hclsyntax.Walk(block, &walker{&e, directory}); diags.HasErrors() {
				t.Fatal(diags)
			}
		}
	}
	return e
}

func (e *example) declare(block *hclsyntax.Block) {
	at := block.DefRange()
	switch block.Type {
	case "variable":
		e.variables[block.Labels[0]] = block
		e.declared["var."+block.Labels[0]] = at
	case "locals":
		for name, a := range block.Body.Attributes {
			e.declared["local."+name] = a.NameRange
		}
	case "resource":
		e.declared[strings.Join(block.Labels, ".")] = at
	case "data", "source":
		e.declared[block.Type+"."+strings.Join(block.Labels, ".")] = at
	}
}

// check finds references to nothing, and declarations that nothing refers to.
func (e *example) check(t *testing.T) {
	t.Helper()
	for name, at := range e.used {
		if _, ok := e.declared[name]; !ok {
			t.Errorf("%s: %s is not declared", at, name)
		}
	}
	for name, at := range e.declared {
		_, used := e.used[name]
		if kind, _, _ := strings.Cut(name, "."); !used && (kind == "var" || kind == "local" || kind == "data") {
			t.Errorf("%s: nothing uses %s", at, name)
		}
	}
	for name, block := range e.variables {
		for _, need := range []string{"type", "description"} {
			if block.Body.Attributes[need] == nil {
				t.Errorf("%s: the variable %s has no %s", block.DefRange(), name, need)
			}
		}
	}
}

// walker collects references, literal strings and templatefile calls.
type walker struct {
	e         *example
	directory string
}

func (w *walker) Enter(node hclsyntax.Node) hcl.Diagnostics {
	switch n := node.(type) {
	case *hclsyntax.ScopeTraversalExpr:
		if name := reference(n.Traversal); name != "" {
			w.e.used[name] = n.Range()
		}
	case *hclsyntax.LiteralValueExpr:
		if v := n.Val; !v.IsNull() && v.Type().FriendlyName() == "string" {
			w.e.strings[v.AsString()] = n.Range()
		}
	case *hclsyntax.FunctionCallExpr:
		return w.file(n)
	}
	return nil
}

func (w *walker) Exit(hclsyntax.Node) hcl.Diagnostics { return nil }

// file looks at file(PATH) and templatefile(PATH, {…}): the file must be there.
func (w *walker) file(call *hclsyntax.FunctionCallExpr) hcl.Diagnostics {
	if call.Name != "file" && call.Name != "templatefile" {
		return nil
	}
	wrong := func(format string, args ...any) hcl.Diagnostics {
		at := call.Range()
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: fmt.Sprintf(format, args...), Subject: &at}}
	}
	path, ok := call.Args[0].(*hclsyntax.TemplateExpr)
	if !ok || len(path.Parts) != 2 {
		return wrong("%s is not called with \"${path.module}/…\"", call.Name)
	}
	end, ok := path.Parts[1].(*hclsyntax.LiteralValueExpr)
	if !ok {
		return wrong("%s is not called with \"${path.module}/…\"", call.Name)
	}
	name := filepath.Join(w.directory, end.Val.AsString())
	if _, err := os.Stat(name); err != nil {
		return wrong("%s: %v", call.Name, err)
	}
	if call.Name == "templatefile" {
		values, ok := call.Args[1].(*hclsyntax.ObjectConsExpr)
		if !ok {
			return wrong("the variables of templatefile are not written out")
		}
		tt := template{path: name, at: call.Range()}
		for _, item := range values.Items {
			tt.gets = append(tt.gets, hcl.ExprAsKeyword(item.KeyExpr.(*hclsyntax.ObjectConsKeyExpr).Wrapped))
		}
		w.e.templates = append(w.e.templates, tt)
	}
	return nil
}

// reference is the declaration that a traversal refers to, "" for what needs none.
func reference(traversal hcl.Traversal) string {
	root := traversal.RootName()
	parts := []string{root}
	for _, step := range traversal[1:] {
		attr, ok := step.(hcl.TraverseAttr)
		if !ok {
			break
		}
		parts = append(parts, attr.Name)
	}
	length := 2
	switch root {
	case "path", "each", "count", "self", "terraform":
		return ""
	case "string", "number", "bool": // types
		return ""
	case "data":
		length = 3
	}
	if len(parts) < length {
		if len(parts) == 1 { // ignore_changes = [desired_capacity], type = any
			return ""
		}
		return strings.Join(parts, ".")
	}
	return strings.Join(parts[:length], ".")
}
