// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"slices"
	"testing"

	"xdplvs/director"
)

// previewed has every kind of difference.
func previewed() director.Preview {
	farm := recordedFarm().Services[0]
	key := func(i int) director.RealKey { return farm.Reals[i].Key }
	weight := []director.KeyChange{{Key: "weight", Old: "1", New: "0"}}
	return director.Preview{
		Other: []string{"timeouts"},
		Services: []director.ServicePreview{
			{Key: farm.Key, Name: "web", Op: director.PreviewChange, Keys: []director.KeyChange{{Key: "scheduler", Old: "wrr", New: "wlc"}, {Key: "persistence", Old: "5m"}, {Key: "answer", New: "drop"}},
				Reals: []director.RealPreview{
					{Key: key(0), Op: director.PreviewRemove, Connections: 12, Effect: director.EffectReset},
					{Key: key(1), Name: "rs2", Op: director.PreviewChange, Keys: weight, Connections: 312, Effect: director.EffectDrain},
					{Key: key(2), Op: director.PreviewChange, Keys: weight, Connections: 3, Effect: director.EffectNone},
					{Key: key(3), Op: director.PreviewAdd, Effect: director.EffectNone, Keys: []director.KeyChange{{Key: "weight", Old: "1", New: "3"}}},
				}},
			{Key: director.MarkKey(7, false), Op: director.PreviewInside, Reals: []director.RealPreview{{Key: key(0), Op: director.PreviewRemove, Connections: 4, Effect: director.EffectDrop}}},
			{Key: director.MarkKey(8, false), Op: director.PreviewRemove, Reals: []director.RealPreview{{Key: key(0), Op: director.PreviewRemove, Connections: 5, Effect: director.EffectReschedule}}},
			{Key: director.MarkKey(9, false), Op: director.PreviewAdd},
		},
		Unchanged: director.Unchanged{Services: 3, RealServers: 9, Connections: 4711},
	}
}

// TestGoldenPlan: what the commands print.
func TestGoldenPlan(t *testing.T) {
	wrong := &fakeBackend{editErr: errors.Join(errors.New("new.yaml:3:5: a"), errors.New("new.yaml:4:5: b"))}
	for name, test := range map[string]struct {
		backend *fakeBackend
		args    []string
	}{
		"plan":              {&fakeBackend{preview: previewed()}, []string{"plan", "testdata/new.yaml"}},
		"plan-exit-code":    {&fakeBackend{preview: previewed()}, []string{"plan", "testdata/new.yaml", "--exit-code", "-o", "json"}},
		"plan-same":         {&fakeBackend{}, []string{"plan", "testdata/new.yaml", "--exit-code"}},
		"plan-mistakes":     {wrong, []string{"plan", "testdata/new.yaml"}},
		"plan-missing":      {&fakeBackend{}, []string{"plan", "testdata/missing.yaml"}},
		"apply":             {&fakeBackend{preview: previewed()}, []string{"apply", "testdata/new.yaml"}},
		"apply-confirm":     {&fakeBackend{}, []string{"apply", "testdata/new.yaml", "--confirm", "2m"}},
		"apply-mistakes":    {wrong, []string{"apply", "testdata/new.yaml"}},
		"usage-apply":       {&fakeBackend{}, []string{"apply", "testdata/new.yaml", "--confirm", "-1s"}},
		"help-apply":        {&fakeBackend{}, []string{"apply", "-h"}},
		"confirm":           {&fakeBackend{}, []string{"confirm"}},
		"confirm-nothing":   {&fakeBackend{editErr: errors.New("no configuration waits for its confirmation")}, []string{"confirm"}},
		"rollback":          {&fakeBackend{}, []string{"rollback"}},
		"no-daemon-confirm": {nil, []string{"confirm"}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.backend == nil {
				newWorld(t, nil).golden(t, name, test.args...)
				return
			}
			newWorld(t, test.backend).golden(t, name, test.args...)
		})
	}
}

// TestApply: the daemon gets the file's text, once for the plan and once to apply it.
func TestApply(t *testing.T) {
	b := &fakeBackend{}
	code, _, stderr := newWorld(t, b).run(t.Context(), "apply", "testdata/new.yaml", "--confirm", "90s")
	if want := []string{"plan testdata/new.yaml interfaces: [eth0]\n", "apply testdata/new.yaml interfaces: [eth0]\n 1m30s"}; code != 0 || !slices.Equal(b.applied, want) {
		t.Errorf("exit %d, %s, asked %q", code, stderr, b.applied)
	}
}
