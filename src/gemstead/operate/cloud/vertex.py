"""Vertex AI as a `Place`: endpoint, model version, deployment, and shares of traffic one after another.

    Endpoint ── Model (a version of it) ── Deployed (no traffic yet) ── Traffic 10 ── 50 ── 100 ── undeploy the old one

A version is told by a digest of what was uploaded, a deployment by one of what was uploaded and how it is deployed, so
that a run that broke off finds what it has done. Each share is held for a while before the next, in which every replica
has to stay up. The old deployment keeps its replicas until the check passed, so that until then going back is a change
of shares; afterwards it is gone, unless the file keeps it (`keep_previous`), and going back deploys it again. What
takes long is an operation of Google's, which is looked at until it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemstead.operate.apply.piece import Piece, PlaceError, Record, Seen
from gemstead.operate.cloud.aiplatform import Aiplatform, aiplatform
from gemstead.operate.cloud.google import Exists, Missing, google
from gemstead.operate.cloud.secrets import Secrets, differing
from gemstead.operate.cloud.vertex_pieces import VERSION, at_once, kept, pieces, shared, without
from gemstead.render.bundle import Bundle, Change, diff
from gemstead.render.yamltext import document

Object = dict[str, Any]
REGION = "europe-west4"
REMOVING_S = 3600.0  # that undeploying or removing may take; minutes are usual
LOOK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """How time passes while shares are held and operations end."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def vertex(
    environ: Mapping[str, str], name: str, project: str, region: str, waiting: Waiting | None = None
) -> VertexPlace:
    """Vertex AI as whoever runs here.

    Raises:
        PlaceError: google-cloud-aiplatform is not installed, no project is named, or no identity is found.
    """
    if not project:
        raise PlaceError("deploy.cloud.project: name the Google Cloud project")
    where = region or REGION
    secrets = Secrets(google(environ), project)
    return VertexPlace(
        aiplatform(environ, where), secrets, name, f"projects/{project}/locations/{where}", waiting
    )


class VertexPlace:
    """One deployment's endpoints in one region of one project."""

    def __init__(
        self, api: Aiplatform, secrets: Secrets, name: str, parent: str, waiting: Waiting | None = None
    ) -> None:
        self.deployment, self._parent = name, parent
        _, project, _, region = parent.split("/")
        self.name = f"Vertex AI, project {project}, region {region}"
        self._api, self._secrets, self._time = api, secrets, waiting or Waiting()
        self._operations: dict[str, str] = {}  # key -> operation's name
        self._since: dict[str, float] = {}  # key of a share -> when it was given

    def pieces(self, bundle: Bundle) -> tuple[Piece, ...]:
        return pieces(bundle)

    def going_back(self, wanted: Sequence[Piece]) -> tuple[Piece, ...]:
        return at_once(wanted)

    def differences(self, wanted: Sequence[Piece]) -> tuple[Change, ...]:
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        for piece in wanted:
            if piece.key.startswith("Traffic ") and piece.document["share"] != 100:
                continue  # on the way
            said, there = self._said(piece), self._there(piece)
            after[piece.key] = document(said)
            if there is not None:
                before[piece.key] = document(differing(there, said))
        for gone in self.unwanted(wanted, self.history()):
            before[gone] = "there\n"
        return diff(before, after)

    def unwanted(self, wanted: Sequence[Piece], history: Sequence[Record]) -> tuple[str, ...]:
        stays = {piece.key for piece in wanted} | kept(wanted, history)
        deployed, endpoints = [], []
        for endpoint in self._endpoints():
            deployed += [f"Deployed {one['displayName']}" for one in endpoint.get("deployedModels", [])]
            endpoints.append(f"Endpoint {endpoint['displayName']}")
        return tuple(one for one in [*deployed, *endpoints] if one not in stays)

    def apply(self, piece: Piece) -> None:
        kind = piece.key.partition(" ")[0]
        if kind == "Traffic":
            self._share(piece)
        elif kind == "Endpoint":
            self._make(piece)
        elif self._there(piece) is None:
            self._upload(piece) if kind == "Model" else self._deploy(piece)

    def look(self, piece: Piece) -> Seen:
        if (operation := self._operations.get(piece.key)) is not None:
            said = self._api.operation(operation)
            if not said.get("done"):
                return Seen(False, "Google is at it")
            del self._operations[piece.key]
            if "error" in said:
                return Seen(False, str(said["error"].get("message", "it failed")), hopeless=True)
        there = self._there(piece)
        if there is None:
            return Seen(False, "it is not there")
        kind = piece.key.partition(" ")[0]
        if kind == "Deployed":
            return _answering(there["deployedModel"])
        return self._held(piece) if kind == "Traffic" else Seen(True)

    def remove(self, key: str) -> None:
        kind, _, name = key.partition(" ")
        for endpoint in self._endpoints():
            if kind == "Endpoint" and endpoint["displayName"] == name:
                self._finish(self._api.delete_endpoint(endpoint["name"]))
            deployed = {one["displayName"]: one["id"] for one in endpoint.get("deployedModels", [])}
            if kind == "Deployed" and name in deployed:
                self._undeploy(endpoint, name)

    def history(self) -> tuple[Record, ...]:
        return self._secrets.history(f"{self.deployment}-applied")

    def remember(self, record: Record) -> None:
        self._secrets.remember(f"{self.deployment}-applied", record)

    def url(self) -> str:
        """Unknown: calls to an endpoint carry Google's identity, which `gemstead check` has not."""
        return ""

    def _make(self, piece: Piece) -> None:
        """Make the endpoint, or change what differs. Its id is its name, so that making it twice is refused."""
        there, wanted = self._there(piece), self._said(piece)
        if there is None:
            self._begin(piece.key, self._api.create_endpoint, self._parent, piece.document)
            return
        differ = [name for name, one in wanted.items() if differing(there.get(name), one) != one]
        if differ:
            changed = {name: wanted[name] for name in differ}
            self._api.update_endpoint({**changed, "name": there["name"]}, differ)

    def _upload(self, piece: Piece) -> None:
        name = piece.document["model"]["displayName"]
        known = self._model(name)
        if known is None:
            self._begin(piece.key, self._api.upload, self._parent, {**piece.document, "modelId": name})
        elif not self._goes_on(piece.key, _plain(known), "UploadModel"):
            body = {**piece.document, "parentModel": _plain(known)}
            self._begin(piece.key, self._api.upload, self._parent, body)

    def _deploy(self, piece: Piece) -> None:
        endpoint = self._endpoint(piece.document["endpoint"])
        # Deploying takes many minutes, and twice would be paid twice.
        if self._goes_on(piece.key, endpoint["name"], "DeployModel"):
            return
        model = self._version(piece.document)
        deployed = {**piece.document["deployedModel"], "model": f"{model['name']}@{model['versionId']}"}
        split = dict(endpoint.get("trafficSplit") or {})
        body = {"deployedModel": deployed, "trafficSplit": {**split, "0": 0} if split else {"0": 100}}
        self._begin(piece.key, self._api.deploy, endpoint["name"], body)

    def _share(self, piece: Piece) -> None:
        """Give the new deployment its share; the others keep theirs in proportion."""
        wanted = piece.document
        endpoint = self._endpoint(wanted["endpoint"])
        deployed = {one["displayName"]: one["id"] for one in endpoint.get("deployedModels", [])}
        mine = deployed.get(wanted["deployed"])
        if mine is None:
            raise PlaceError(f"{wanted['deployed']} is not deployed")
        split: dict[str, int] = dict(endpoint.get("trafficSplit") or {})
        if split.get(mine, 0) >= wanted["share"]:
            return
        new = shared(split, mine, wanted["share"])
        self._api.update_endpoint({"name": endpoint["name"], "trafficSplit": new}, ["trafficSplit"])
        self._since[piece.key] = self._time.clock()

    def _held(self, piece: Piece) -> Seen:
        """A share that was just given is held, and looked at, before the next."""
        endpoint = self._endpoint(piece.document["endpoint"])
        for one in endpoint.get("deployedModels", []):
            if one["displayName"] == piece.document["deployed"] and not (seen := _answering(one)).ready:
                return seen
        since, hold_s = self._since.get(piece.key), float(piece.document.get("hold_s", 0))
        if since is None or self._time.clock() - since >= hold_s:
            return Seen(True)
        return Seen(False, f"{piece.document['share']} % of calls, held for {hold_s:g} s")

    def _undeploy(self, endpoint: Object, name: str) -> None:
        for running in self._running(endpoint["name"], "UndeployModel"):
            self._finish(running)
        endpoint = self._endpoint(endpoint["displayName"])  # as it is now
        there = {one["displayName"]: one["id"] for one in endpoint.get("deployedModels", [])}
        mine = there.pop(name, None)
        if mine is None:
            return
        split = endpoint.get("trafficSplit") or {}
        new = without(split, mine, sorted(there.values())) if split.get(mine) else {}
        body = {"deployedModelId": mine, **({"trafficSplit": new} if new else {})}
        self._finish(self._api.undeploy(endpoint["name"], body))

    def _said(self, piece: Piece) -> Object:
        """The piece as Google will give it back."""
        kind = piece.key.partition(" ")[0]
        if kind == "Endpoint":
            return self._api.form("Endpoint", piece.document)
        if kind == "Model":
            return {**piece.document, "model": self._api.form("Model", piece.document["model"])}
        if kind == "Deployed":
            return {
                **piece.document,
                "deployedModel": self._api.form("DeployedModel", piece.document["deployedModel"]),
            }
        return {name: piece.document[name] for name in ("endpoint", "deployed", "share")}

    def _there(self, piece: Piece) -> Object | None:
        """What corresponds to the piece, in the piece's own form."""
        kind, _, name = piece.key.partition(" ")
        try:
            if kind == "Endpoint":
                return self._endpoint(name)
            if kind == "Model":
                display = piece.document["model"]["displayName"]
                found = self._version({"endpoint": display, "version": name[-12:]})
                return {**piece.document, "model": found}
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
        return self._api.endpoints(self._parent, f'labels.gemstead="{self.deployment}"')

    def _endpoint(self, name: str) -> Object:
        for one in self._endpoints():
            if one["displayName"] == name:
                return one
        raise Missing(f"there is no endpoint {name}")

    def _model(self, name: str) -> Object | None:
        found = self._api.models(self._parent, f'displayName="{name}"')
        return found[0] if found else None

    def _version(self, wanted: Object) -> Object:
        model = self._model(wanted["endpoint"])
        for one in self._api.versions(_plain(model)) if model is not None else []:
            if (one.get("labels") or {}).get(VERSION) == wanted["version"]:
                return {**one, "name": _plain(one)}
        raise Missing(f"there is no version {wanted['version']} of {wanted['endpoint']}")

    def _begin(self, key: str, begin: Callable[[str, Object], str], of: str, body: Object) -> None:
        try:
            self._operations[key] = begin(of, body)
        except Exists:
            return  # a run that broke off has begun it

    def _goes_on(self, key: str, of: str, what: str) -> bool:
        """Whether a run that broke off has begun it already; then that operation is waited for."""
        running = self._running(of, what)
        self._operations.update({key: running[0]} if running else {})
        return bool(running)

    def _running(self, of: str, what: str) -> list[str]:
        return [
            one["name"]
            for one in self._api.operations(of)
            if not one.get("done")
            and f".{what}Operation" in str((one.get("metadata") or {}).get("@type", ""))
        ]

    def _finish(self, operation: str) -> None:
        """Wait until it is done: what comes next needs it gone."""
        until = self._time.clock() + REMOVING_S
        while not (said := self._api.operation(operation)).get("done"):
            if self._time.clock() >= until:
                raise PlaceError(f"Google is still at it after {REMOVING_S:g} s: {operation}")
            self._time.sleep(LOOK_EVERY_S)
        if "error" in said:
            raise PlaceError(str(said["error"].get("message", "it failed")))


def _plain(model: Object) -> str:
    """The model's name without its version."""
    return str(model["name"]).partition("@")[0]


def _answering(deployed: Object) -> Seen:
    """Whether as many replicas answer as there are at least."""
    least = int(deployed["dedicatedResources"]["minReplicaCount"])
    status = deployed.get("status")  # says nothing of a count that is 0
    count = least if status is None else int(status.get("availableReplicaCount", 0))
    return Seen(True) if count >= least else Seen(False, f"{count} of {least} replicas answer")
