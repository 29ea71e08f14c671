// SPDX-License-Identifier: Apache-2.0

package law

import (
	"slices"
	"strings"
	"testing"
)

func TestSizes(t *testing.T) {
	body := strings.Repeat("\tx();\n", 78)
	violations, err := Sizes(tree(map[string]string{
		"a.go":       "package p\n\nfunc fits() {\n" + strings.Repeat("\tfits()\n", 78) + "}\n",
		"b.go":       "package p\n\n// Doc is not counted.\nfunc (t T) long() {\n" + strings.Repeat("\tlong()\n", 79) + "}\n",
		"bpf/c.h":    "static int fits(int a)\n{\n" + body[len("\tx();\n"):] + "}\n",
		"bpf/d.c":    "int long(int a,\n\t int b)\n{\n" + body + "}\n",
		"build/e.c":  "int long(void)\n{\n" + body + body + "}\n",
		"README.txt": body + body,
	}), 80)
	want := []string{"b.go: long has 81 lines, more than 80", "bpf/d.c: long has 82 lines, more than 80"}
	if got := texts(t, violations, err); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

const cSource = `/* a comment ( { */
#include <x.h>
#define MACRO(x) do { \
	x; } while (0)

struct point {
	int x, y;
};

enum color { RED, GREEN };

static const char text[] = "{ \" (";
const struct point origin = { .x = f(1) };

int declared(int a);

/* Before a function; it's "quoted. */
static __always_inline
struct point *one(struct xdp_md *ctx,
		  int b) /* } */
{
	if (b) {
		return '{';
	}
	// }
	return "}";
}

#if 1
SEC("xdp.frags")
int two(struct xdp_md *ctx)
{
	return 2; }
#endif

__inline int three(void) { return 3; }
int four(void) { return 4; }
`

func TestCFunctions(t *testing.T) {
	want := []function{{"one", 18, 27}, {"two", 30, 33}, {"three", 36, 36}, {"four", 37, 37}}
	if got := cFunctions([]byte(cSource)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
