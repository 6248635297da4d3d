"""Vertex AI as a `Place`: endpoint, model version, deployment, and shares of traffic one after another.

    Endpoint ── Model (a version of it) ── Deployed (no traffic yet) ── Traffic 10 ── 50 ── 100 ── undeploy the old one

A version is told by a digest of what was uploaded, a deployment by one of what was uploaded and how it is deployed, so
that a run that broke off finds what it has done. The old deployment stays, with its replicas, until the check passed.
What takes long is an operation of Google's, which is looked at until it is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import yaml

from gemstead.operate.apply.piece import Piece, PlaceError, Record, Seen
from gemstead.operate.cloud.google import Google, Missing
from gemstead.operate.cloud.secrets import Secrets, differing
from gemstead.render.bundle import Bundle, Change, diff
from gemstead.render.yamltext import document

Object = dict[str, Any]
VERSION = "gemstead-version"


class VertexPlace:
    """One deployment's endpoints in one region of one project."""

    def __init__(self, google: Google, name: str, project: str, region: str) -> None:
        self.deployment, self.region = name, region or "europe-west4"
        self.name = f"Vertex AI, project {project}, region {self.region}"
        self._parent = f"projects/{project}/locations/{self.region}"
        self._google, self._secrets = google, Secrets(google, project)
        self._operations: dict[str, str] = {}  # key -> operation's name

    def pieces(self, bundle: Bundle) -> tuple[Piece, ...]:
        found: list[Piece] = []
        for path in bundle.files:
            folder, _, file = path.rpartition("/")
            if file != "model.yaml":
                continue
            upload, endpoint, deploy, rollout = (
                yaml.safe_load(bundle.files[f"{folder}/{part}.yaml"])
                for part in ("model", "endpoint", "deploy", "rollout")
            )
            name, model = endpoint["displayName"], digest(upload)
            upload["model"].setdefault("labels", {})[VERSION] = model
            deployed = f"{name}-{digest(upload, deploy)}"
            deploy["deployedModel"]["displayName"] = deployed
            found += [
                Piece(f"Endpoint {name}", endpoint, 0),
                Piece(f"Model {name}-{model}", upload, 1),
                Piece(f"Deployed {deployed}", {**deploy, "endpoint": name, "version": model}, 2),
            ]
            found += [
                Piece(
                    f"Traffic {deployed} {share}",
                    {"endpoint": name, "deployed": deployed, "share": share},
                    3 + at,
                )
                for at, share in enumerate(rollout["shares"])
            ]
        return tuple(sorted(found, key=lambda piece: piece.stage))

    def differences(self, pieces: Sequence[Piece]) -> tuple[Change, ...]:
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        for piece in pieces:
            there = self._there(piece)
            if piece.key.startswith("Traffic ") and piece.document["share"] != 100:
                continue  # on the way
            after[piece.key] = document(piece.document)
            if there is not None:
                before[piece.key] = document(differing(there, piece.document))
        for gone in self.unwanted(pieces, ()):
            before[gone] = "there\n"
        return diff(before, after)

    def unwanted(self, pieces: Sequence[Piece], history: Sequence[Record]) -> tuple[str, ...]:
        wanted = {piece.key for piece in pieces}
        deployed, endpoints = [], []
        for endpoint in self._endpoints():
            key = f"Endpoint {endpoint['displayName']}"
            deployed += [f"Deployed {one['displayName']}" for one in endpoint.get("deployedModels", [])]
            endpoints.append(key)
        return tuple(one for one in [*deployed, *endpoints] if one not in wanted)

    def apply(self, piece: Piece) -> None:
        kind = piece.key.partition(" ")[0]
        if kind == "Traffic":
            self._share(piece.document)
        elif (there := self._there(piece)) is not None:
            said = {
                name: one for name, one in piece.document.items() if differing(there.get(name), one) != one
            }
            if kind == "Endpoint" and said:
                self._ask("PATCH", there["name"], said, updateMask=",".join(said))
        elif kind == "Endpoint":
            self._begin(piece.key, f"{self._parent}/endpoints", piece.document)
        elif kind == "Model":
            known = self._model(piece.document["model"]["displayName"])
            body = {**piece.document, **({"parentModel": known["name"]} if known else {})}
            self._begin(piece.key, f"{self._parent}/models:upload", body)
        else:
            self._deploy(piece)

    def look(self, piece: Piece) -> Seen:
        if (operation := self._operations.get(piece.key)) is not None:
            said = self._ask("GET", operation)
            if not said.get("done"):
                return Seen(False, "Google is at it")
            del self._operations[piece.key]
            if "error" in said:
                return Seen(False, str(said["error"].get("message", "it failed")), hopeless=True)
        there = self._there(piece)
        if there is None:
            return Seen(False, "it is not there", hopeless=not piece.key.startswith("Deployed "))
        if piece.key.startswith("Deployed "):
            least = piece.document["deployedModel"]["dedicatedResources"]["minReplicaCount"]
            count = (there["deployedModel"].get("status") or {}).get("availableReplicaCount", least)
            if count < least:
                return Seen(False, f"{count} of {least} replicas answer")
        return Seen(True)

    def remove(self, key: str) -> None:
        kind, _, name = key.partition(" ")
        for endpoint in self._endpoints():
            if kind == "Endpoint" and endpoint["displayName"] == name:
                self._finish(self._ask("DELETE", endpoint["name"]))
            for one in endpoint.get("deployedModels", []):
                if kind == "Deployed" and one["displayName"] == name:
                    body = {"deployedModelId": one["id"]}
                    self._finish(self._ask("POST", f"{endpoint['name']}:undeployModel", body))

    def history(self) -> tuple[Record, ...]:
        return self._secrets.history(f"{self.deployment}-applied")

    def remember(self, record: Record) -> None:
        self._secrets.remember(f"{self.deployment}-applied", record)

    def url(self) -> str:
        """Unknown: calls to an endpoint carry Google's identity, which `gemstead check` has not."""
        return ""

    def _deploy(self, piece: Piece) -> None:
        endpoint = self._endpoint(piece.document["endpoint"])
        # A run that broke off may have begun it: deploying takes many minutes, and twice would be paid twice.
        running = self._ask("GET", f"{endpoint['name']}/operations").get("operations", [])
        for one in running:
            if not one.get("done") and "DeployModel" in str((one.get("metadata") or {}).get("@type", "")):
                self._operations[piece.key] = one["name"]
                return
        model = self._version(piece.document)
        split = dict(endpoint.get("trafficSplit") or {})
        body = {
            "deployedModel": {
                **piece.document["deployedModel"],
                "model": f"{model['name']}@{model['versionId']}",
            },
            "trafficSplit": {**split, "0": 0} if split else {"0": 100},
        }
        self._begin(piece.key, f"{endpoint['name']}:deployModel", body)

    def _share(self, wanted: Object) -> None:
        """Give the new deployment its share; the others keep theirs in proportion."""
        endpoint = self._endpoint(wanted["endpoint"])
        mine = next(
            (
                one["id"]
                for one in endpoint.get("deployedModels", [])
                if one["displayName"] == wanted["deployed"]
            ),
            None,
        )
        if mine is None:
            raise PlaceError(f"{wanted['deployed']} is not deployed")
        split: dict[str, int] = dict(endpoint.get("trafficSplit") or {})
        if split.get(mine, 0) >= wanted["share"]:
            return
        new = shared(split, mine, wanted["share"])
        self._ask("PATCH", endpoint["name"], {"trafficSplit": new}, updateMask="trafficSplit")

    def _there(self, piece: Piece) -> Object | None:
        """What corresponds to the piece, in the piece's own form."""
        kind, _, name = piece.key.partition(" ")
        try:
            if kind == "Endpoint":
                return self._endpoint(name)
            if kind == "Model":
                found = self._version(
                    {"endpoint": piece.document["model"]["displayName"], "version": name[-12:]}
                )
                return {**piece.document, "model": differing(found, piece.document["model"])}
            endpoint = self._endpoint(piece.document["endpoint"])
        except Missing:
            return None
        wanted = piece.document["deployed"] if kind == "Traffic" else name
        for one in endpoint.get("deployedModels", []):
            if one["displayName"] == wanted and kind == "Deployed":
                return {**piece.document, "deployedModel": one}
            if one["displayName"] == wanted:
                return {**piece.document, "share": (endpoint.get("trafficSplit") or {}).get(one["id"], 0)}
        return None

    def _endpoints(self) -> list[Object]:
        query = f'labels.gemstead="{self.deployment}"'
        return list(self._ask("GET", f"{self._parent}/endpoints", filter=query).get("endpoints", []))

    def _endpoint(self, name: str) -> Object:
        for one in self._endpoints():
            if one["displayName"] == name:
                return one
        raise Missing(f"there is no endpoint {name}")

    def _model(self, name: str) -> Object | None:
        found = self._ask("GET", f"{self._parent}/models", filter=f'displayName="{name}"').get("models", [])
        return found[0] if found else None

    def _version(self, wanted: Object) -> Object:
        model = self._model(wanted["endpoint"])
        if model is not None:
            versions: list[Object] = self._ask("GET", f"{model['name'].partition('@')[0]}:listVersions").get(
                "models", []
            )
            for one in versions:
                if (one.get("labels") or {}).get(VERSION) == wanted["version"]:
                    return {**one, "name": one["name"].partition("@")[0]}
        raise Missing(f"there is no version {wanted['version']} of {wanted['endpoint']}")

    def _begin(self, key: str, path: str, body: Object) -> None:
        self._operations[key] = self._ask("POST", path, body)["name"]

    def _finish(self, operation: Object) -> None:
        if "error" in operation:
            raise PlaceError(str(operation["error"].get("message", "it failed")))

    def _ask(self, method: str, path: str, body: Object | None = None, **query: str) -> Object:
        return self._google.ask("aiplatform", self.region, method, f"/v1/{path}", body, **query)


def digest(*documents: Object) -> str:
    """Twelve hex digits of what the documents say."""
    return hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()[:12]


def shared(split: dict[str, int], mine: str, share: int) -> dict[str, int]:
    """The split in which `mine` has its share and the others keep theirs in proportion; whole percents, 100 in all."""
    others = {name: percent for name, percent in split.items() if name != mine and percent}
    rest, total = 100 - share, sum(others.values())
    if not others or not rest:
        return {mine: 100}
    new = {name: percent * rest // total for name, percent in others.items()}
    largest = max(others, key=lambda name: (others[name], name))
    new[largest] += rest - sum(new.values())
    return {**new, mine: share}
