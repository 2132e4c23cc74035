// SPDX-License-Identifier: Apache-2.0

// helmlite prints what a Helm chart makes: helmlite CHART NAMESPACE [VALUES.yaml]. It has Helm's template engine and
// functions as far as our chart uses them, since Debian does not package Helm.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helmlite:", err)
		os.Exit(1)
	}
}

func read(path string, into map[string]interface{}) {
	data, err := os.ReadFile(path)
	fail(err)
	fail(yaml.Unmarshal(data, &into))
}

// merge lays what is in from over into, maps key by key, as Helm does.
func merge(into, from map[string]interface{}) {
	for key, value := range from {
		below, ok := value.(map[string]interface{})
		if old, is := into[key].(map[string]interface{}); ok && is {
			merge(old, below)
		} else {
			into[key] = value
		}
	}
}

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("helmlite CHART NAMESPACE [VALUES.yaml]"))
	}
	values, chart := map[string]interface{}{}, map[string]interface{}{}
	read(filepath.Join(os.Args[1], "values.yaml"), values)
	read(filepath.Join(os.Args[1], "Chart.yaml"), chart)
	if len(os.Args) > 3 {
		more := map[string]interface{}{}
		read(os.Args[3], more)
		merge(values, more)
	}
	data := map[string]interface{}{
		"Values":  values,
		"Chart":   chart,
		"Release": map[string]interface{}{"Name": "fastoci", "Namespace": os.Args[2]},
	}
	funcs := sprig.TxtFuncMap()
	funcs["toYaml"] = func(v interface{}) string {
		out, err := yaml.Marshal(v)
		fail(err)
		return strings.TrimSuffix(string(out), "\n")
	}
	paths, err := filepath.Glob(filepath.Join(os.Args[1], "templates", "*.yaml"))
	fail(err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		fail(err)
		t, err := template.New(filepath.Base(path)).Option("missingkey=error").Funcs(funcs).Parse(string(text))
		fail(err)
		var out bytes.Buffer
		fail(t.Execute(&out, data))
		if strings.TrimSpace(out.String()) != "" {
			fmt.Printf("---\n%s", strings.TrimLeft(out.String(), "\n"))
		}
	}
}
