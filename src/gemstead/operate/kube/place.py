"""A namespace of a cluster as a `Place` (see `operate/apply/piece.py`).

What is ours is told by labels that every rendered object carries. Volumes and the namespace itself are never removed:
what they hold cannot be brought back by applying again. Records of earlier bundles are Secrets, as Helm keeps them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from gemstead.operate.apply.carry import kept
from gemstead.operate.apply.history import in_order, packed, unpacked
from gemstead.operate.apply.piece import Piece, PlaceError, Record, Seen
from gemstead.operate.kube.client import Cluster, Missing
from gemstead.operate.kube.ready import seen, trouble
from gemstead.render.bundle import Bundle, Change, diff
from gemstead.render.kubernetes.build import built
from gemstead.render.yamltext import document

Object = dict[str, Any]
NEVER_REMOVED = ("PersistentVolumeClaim", "Namespace", "PersistentVolume")
# What others need comes first; the rest keeps the bundle's order.
FIRST = ("Namespace", "CustomResourceDefinition", "PriorityClass", "RuntimeClass", "StorageClass", "ServiceAccount",
         "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "ConfigMap", "Secret", "ExternalSecret",
         "PersistentVolumeClaim", "NetworkPolicy", "Service")  # fmt: skip
RECORD, SAID = "gemstead.dev/applied", "gemstead.dev/said"
SERVER_SAYS = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "LeaderWorkerSet", "Job", "Rollout")


class KubePlace:
    """One deployment's objects in one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        namespace: str,
        *,
        overlay: str = "",
        force: bool = False,
        url: str = "",
    ) -> None:
        self.cluster, self.deployment, self.namespace = cluster, name, namespace
        self.overlay, self.force, self._url = overlay, force, url
        self.name = f"{cluster.name or 'the cluster'}, namespace {namespace}"
        self._known: dict[str, Object] = {}  # key -> apiVersion, kind and metadata, for what is removed

    def pieces(self, bundle: Bundle) -> tuple[Piece, ...]:
        folder = f"overlays/{self.overlay}" if self.overlay else ""
        try:
            objects = built(bundle.files, folder)
        except KeyError as error:
            raise PlaceError(f"the bundle has no overlay {self.overlay}" if folder else str(error)) from error
        brought = {
            (f"{one['spec']['group']}/{version['name']}", one["spec"]["names"]["kind"])
            for one in objects
            if one["kind"] == "CustomResourceDefinition"
            for version in one["spec"]["versions"]
        }
        for one in objects:
            if (one["apiVersion"], one["kind"]) not in brought:
                self.cluster.kind(one["apiVersion"], one["kind"])  # refuses before anything is done
        order = sorted(
            objects, key=lambda one: FIRST.index(one["kind"]) if one["kind"] in FIRST else len(FIRST)
        )
        return tuple(Piece(key(one), _marked(one), 0 if one["kind"] in FIRST else 1) for one in order)

    def differences(self, pieces: Sequence[Piece]) -> tuple[Change, ...]:
        before, after = {}, {}
        for piece in pieces:
            there = self.cluster.read(piece.document)
            if there is not None:
                before[piece.key] = shown(there)
            try:
                will_be = self.cluster.apply(piece.document, dry=True, force=True)
            except Missing:  # its namespace does not exist yet
                will_be = piece.document
            after[piece.key] = shown(will_be)
        for gone in self.unwanted(pieces, self.history()):
            there = self.cluster.read(self._known[gone])
            before[gone] = shown(there) if there else ""
        return diff(before, after)

    def going_back(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        return tuple(pieces)

    def unwanted(self, pieces: Sequence[Piece], history: Sequence[Record]) -> tuple[str, ...]:
        wanted = {piece.key for piece in pieces}
        documents = [one.document for record in history for one in record.pieces]
        documents += [piece.document for piece in pieces]
        kinds = dict.fromkeys((one["apiVersion"], one["kind"]) for one in documents)
        found: dict[str, Object] = {}
        for api, kind in kinds:
            if kind in NEVER_REMOVED:
                continue
            try:
                listed = self.cluster.listed(api, kind, self.namespace, self._ours())
            except Missing:
                continue  # the kind has gone, and its objects with it
            for one in listed:
                if key(one) not in wanted and one.get("type") != RECORD:
                    found[key(one)] = one
        self._known |= found
        return tuple(reversed(list(found)))

    def apply(self, piece: Piece) -> None:
        if piece.document["kind"] == "Job":
            self._make_way(piece.document)
        self.cluster.apply(piece.document, force=self.force)
        if piece.document["kind"] == "CustomResourceDefinition":
            self.cluster.forget_kinds()

    def look(self, piece: Piece) -> Seen:
        there = self.cluster.read(piece.document)
        if there is None:
            return Seen(False, "it has gone: someone removed it", hopeless=True)
        found = seen({**there, "kind": piece.document["kind"]})
        if found.ready or piece.document["kind"] not in WORKLOADS:
            return found
        why = self._pods(piece.document)
        return Seen(False, why or found.why, found.hopeless)

    def remove(self, key: str) -> None:
        self.cluster.delete(self._known[key])

    def history(self) -> tuple[Record, ...]:
        try:
            found = self.cluster.listed("v1", "Secret", self.namespace, f"{RECORD}={self.deployment}")
        except Missing:
            return ()
        return in_order([unpacked(_text(one)) for one in found])

    def remember(self, record: Record) -> None:
        history = self.history()
        if not self.cluster.read(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        ):
            self._make_namespace(record)
        self.cluster.apply(self._secret(record), force=True)
        keep = {one.number for one in kept(history, record)}
        for old in history:
            if old.number not in keep:
                self.cluster.delete(self._secret(old))

    def url(self) -> str:
        return self._url

    def _ours(self) -> str:
        return f"app.kubernetes.io/part-of={self.deployment},app.kubernetes.io/managed-by=gemstead"

    def _make_way(self, job: Object) -> None:
        """A Job's pods cannot be changed: one that says other things, or failed, is removed first."""
        there = self.cluster.read(job)
        if there is None:
            return
        failed = seen({**there, "kind": "Job"}).hopeless
        if (
            failed
            or (there["metadata"].get("annotations") or {}).get(SAID) != job["metadata"]["annotations"][SAID]
        ):
            self.cluster.delete(job)
            if self.cluster.read(job) is not None:
                raise PlaceError(
                    "the job of an earlier bundle is still being removed; apply again in a moment"
                )

    def _make_namespace(self, record: Record) -> None:
        """The records live in the namespace, so it comes before them; the bundle's own one, where it has one."""
        for piece in record.pieces:
            if piece.document["kind"] == "Namespace" and piece.document["metadata"]["name"] == self.namespace:
                self.cluster.apply(piece.document, force=self.force)
                return
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})

    def _pods(self, one: Object) -> str:
        labels = one["spec"].get("selector", {}).get("matchLabels", {})
        if not labels:
            return ""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        try:
            return trouble(self.cluster.listed("v1", "Pod", self.namespace, selector))
        except PlaceError:
            return ""  # whoever may apply may not be allowed to see pods

    def _secret(self, record: Record) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": RECORD,
            "metadata": {
                "name": f"{self.deployment}-applied-{record.number}",
                "namespace": self.namespace,
                "labels": {RECORD: self.deployment, "app.kubernetes.io/managed-by": "gemstead"},
            },
            "stringData": {"record": packed(record)},
        }


def _marked(one: Object) -> Object:
    """The object; a Job with a mark of what it says, because the cluster's own form of it says more."""
    if one["kind"] != "Job":
        return one
    said = hashlib.sha256(json.dumps(one["spec"], sort_keys=True).encode()).hexdigest()[:16]
    metadata = {**one["metadata"], "annotations": {**one["metadata"].get("annotations", {}), SAID: said}}
    return {**one, "metadata": metadata}


def key(one: Object) -> str:
    """What an object is called in reports, and told apart by."""
    group = one["apiVersion"].rpartition("/")[0]
    return f"{one['kind']}{'.' + group if group else ''} {one['metadata']['name']}"


def shown(one: Object) -> str:
    """The object as text for a comparison: without what the server adds, and without what a Secret holds."""
    metadata = {name: value for name, value in one["metadata"].items() if name not in SERVER_SAYS}
    found = {**one, "metadata": metadata}
    found.pop("status", None)
    if one["kind"] == "Secret":
        for part in ("data", "stringData"):
            if part in found:
                found[part] = {name: _fingerprint(str(value)) for name, value in found[part].items()}
    return document(_sorted(found))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


def _fingerprint(value: str) -> str:
    return f"(secret, sha256 {hashlib.sha256(value.encode()).hexdigest()[:12]})"


def _text(secret: Object) -> str:
    if "record" in (secret.get("stringData") or {}):
        return str(secret["stringData"]["record"])
    try:
        return base64.b64decode((secret.get("data") or {}).get("record", "")).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
