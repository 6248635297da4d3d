"""What a folder of Kustomize files comes to: the objects, with overlays' patches carried out.

It reads what this package writes (resources, JSON patches, labels outside selectors) and refuses what it does not
know, so that nothing is left out silently. `kubectl kustomize` gives the same objects; a test holds the two together.
"""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Object = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "patches", "labels"}


def built(files: Mapping[str, str], folder: str = "") -> list[Object]:
    """The objects of the kustomization in a folder of a bundle.

    Raises:
        ValueError: it says something that is not understood here, or a patch that fits nothing.
    """
    path = posixpath.join(folder, "kustomization.yaml")
    said = yaml.safe_load(files[path])
    if unknown := said.keys() - KNOWN:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))} is not understood here")
    found = [one for name in said.get("resources", []) for one in _resource(files, folder, name)]
    for label in said.get("labels", []):
        if label.get("includeSelectors"):
            raise ValueError(f"{path}: labels in selectors are not understood here")
        for one in found:
            one["metadata"].setdefault("labels", {}).update(label["pairs"])
    for patch in said.get("patches", []):
        chosen = [one for one in found if _matches(patch["target"], one)]
        if not chosen:
            raise ValueError(f"{path}: no object is {patch['target']}")
        for one in chosen:
            for operation in yaml.safe_load(patch["patch"]):
                _patch(one, operation)
    return found


def _resource(files: Mapping[str, str], folder: str, name: str) -> Iterator[Object]:
    path = posixpath.normpath(posixpath.join(folder, name))
    if path in files:
        yield from (one for one in yaml.safe_load_all(files[path]) if one)
    else:
        yield from copy.deepcopy(built(files, path))


def _matches(target: Mapping[str, str], one: Object) -> bool:
    group, _, version = one["apiVersion"].rpartition("/")
    there = {"group": group, "version": version, "kind": one["kind"], "name": one["metadata"]["name"]}
    return all(there.get(key, "") == value for key, value in target.items())


def _patch(one: Object, operation: Mapping[str, Any]) -> None:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    at: Any = one
    for step in steps[:-1]:
        at = at[int(step)] if isinstance(at, list) else at[step]
    last = steps[-1]
    what = operation["op"]
    if isinstance(at, list):
        if what == "add":
            at.insert(len(at) if last == "-" else int(last), operation["value"])
        elif what == "replace":
            at[int(last)] = operation["value"]
        else:
            del at[int(last)]
    elif what == "remove":
        del at[last]
    elif what == "replace" and last not in at:
        raise ValueError(f"{operation['path']}: there is nothing to replace")
    else:
        at[last] = operation["value"]
