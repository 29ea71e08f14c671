// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
)

// identity is embedded by checkers.
type identity string

// Identity is Checker's.
func (i identity) Identity() string { return string(i) }

// identify derives the identity of a checker from its options, secrets and the content of files included:
// a hash, so that they cannot be read from it.
func identify(kind string, options ...any) identity {
	h := sha256.New()
	digestValue(h, reflect.ValueOf(options))
	return identity(kind + ":" + hex.EncodeToString(h.Sum(nil)[:12]))
}

var checkerType = reflect.TypeFor[Checker]()

// digestValue writes a value so that different ones differ: every length is told before the content.
func digestValue(w io.Writer, v reflect.Value) {
	if v.IsValid() && v.Type() == checkerType && !v.IsNil() {
		io.WriteString(w, v.Interface().(Checker).Identity()+";")
		return
	}
	switch v.Kind() {
	case reflect.Invalid:
		io.WriteString(w, "nil;")
	case reflect.Struct:
		for i := range v.NumField() {
			digestValue(w, v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		io.WriteString(w, strconv.Itoa(v.Len())+"[")
		for i := range v.Len() {
			digestValue(w, v.Index(i))
		}
	case reflect.Map:
		digestMap(w, v)
	case reflect.Pointer, reflect.Interface:
		digestValue(w, v.Elem())
	case reflect.String:
		io.WriteString(w, strconv.Itoa(v.Len())+":"+v.String())
	default:
		fmt.Fprintf(w, "%v;", v)
	}
}

// digestMap writes maps whose keys are texts.
func digestMap(w io.Writer, v reflect.Value) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		return slices.Compare([]byte(a.String()), []byte(b.String()))
	})
	io.WriteString(w, strconv.Itoa(len(keys))+"{")
	for _, k := range keys {
		digestValue(w, k)
		digestValue(w, v.MapIndex(k))
	}
}
