#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""k8scheck.py FILE...: Kubernetes objects against the API's schema, as python3-kubernetes has it from the API's OpenAPI
document: unknown fields, wrong types, missing fields, values outside an enumeration. Then what the schema cannot say of a
pod: its mounts have volumes, its selector selects it, names are not used twice. Prints a line per object that is right, and
one per fault; status 1 if there is one. KMM's Module is not part of that API: only its outline is checked."""
import sys
import yaml
from kubernetes import client


class Fault(Exception):
    pass


class UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise Fault(f"line {node.start_mark.line + 1}: the key {key} is there twice")
        return super().construct_mapping(node, deep)


def convert(kind, value, path):
    """The value as the API's type of that name."""
    if value is None:
        raise Fault(f"{path}: nothing, not {kind}")
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise Fault(f"{path}: {value!r} is no list")
        return [convert(kind[5:-1], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if kind.startswith("dict("):
        if not isinstance(value, dict):
            raise Fault(f"{path}: {value!r} is no mapping")
        return {key: convert(kind[5:-1].split(", ")[1], item, f"{path}.{key}") for key, item in value.items()}
    plain = {"str": str, "int": int, "bool": bool, "float": float}.get(kind)
    if plain:
        if type(value) is not plain:
            raise Fault(f"{path}: {value!r} is no {kind}")
        return value
    if kind in ("object", "datetime"):
        return value
    model = getattr(client, kind)
    if not isinstance(value, dict):
        raise Fault(f"{path}: {value!r} is no {kind}")
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    given = {}
    for name, item in value.items():
        if name not in attributes:
            raise Fault(f"{path}: {kind} has no field {name!r}")
        given[attributes[name]] = convert(model.openapi_types[attributes[name]], item, f"{path}.{name}")
    try:
        return model(**given)
    except ValueError as e:
        raise Fault(f"{path}: {e}")


def check_pod(template, selector, path):
    spec = template["spec"]
    volumes = [v["name"] for v in spec.get("volumes", [])]
    containers = spec.get("initContainers", []) + spec["containers"]
    names = [c["name"] for c in containers]
    for what, all_names in (("volume", volumes), ("container", names)):
        for name in all_names:
            if all_names.count(name) > 1:
                raise Fault(f"{path}: the {what} {name} is there twice")
    used = set()
    for c in containers:
        for mount in c.get("volumeMounts", []):
            if mount["name"] not in volumes:
                raise Fault(f"{path}: container {c['name']} mounts {mount['name']}, which is no volume")
            used.add(mount["name"])
    for name in set(volumes) - used:
        raise Fault(f"{path}: nobody mounts the volume {name}")
    labels = template["metadata"]["labels"]
    for key, value in selector.items():
        if labels.get(key) != value:
            raise Fault(f"{path}: the selector's {key}: {value} is not the pod's")


def check(thing):
    if not isinstance(thing, dict) or "kind" not in thing or "apiVersion" not in thing:
        raise Fault("an object without kind and apiVersion")
    kind, version = thing["kind"], thing["apiVersion"].split("/")[-1]
    if thing["apiVersion"].startswith("kmm.sigs.x-k8s.io/"):
        for mapping in thing["spec"]["moduleLoader"]["container"]["kernelMappings"]:
            if set(mapping) - {"literal", "regexp", "containerImage", "build", "sign"} or "containerImage" not in mapping:
                raise Fault(f"Module: {mapping}")
        return
    name = version[0].upper() + version[1:] + kind
    if not hasattr(client, name):
        raise Fault(f"the API has no {thing['apiVersion']} {kind}")
    convert(name, thing, kind)
    spec = thing.get("spec") or {}
    if "template" in spec:
        check_pod(spec["template"], spec.get("selector", {}).get("matchLabels", {}), kind)


def main():
    bad = False
    for path in sys.argv[1:]:
        try:
            with open(path) as f:
                things = [t for t in yaml.load_all(f, UniqueKeys) if t is not None]
        except (Fault, yaml.YAMLError) as e:
            print(f"{path}: {e}")
            bad = True
            continue
        for thing in things:
            try:
                check(thing)
                print(f"{path}: {thing['kind']} {thing['metadata']['name']} is right")
            except (Fault, KeyError, TypeError) as e:
                print(f"{path}: {type(e).__name__ + ': ' if not isinstance(e, Fault) else ''}{e}")
                bad = True
        if not things:
            print(f"{path}: nothing in it")
            bad = True
    sys.exit(bad)


main()
