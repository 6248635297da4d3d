"""Cloud Run as a `Place`: settings in Secret Manager, one service for each model, and its revision's readiness.

Services are told by the label `gemstead`. Going back applies the earlier service again, which makes a revision like the
earlier one; Cloud Run itself leaves traffic where it is until that revision is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from gemstead.operate.apply.piece import Piece, PlaceError, Record, Seen
from gemstead.operate.cloud.google import Google, Missing
from gemstead.operate.cloud.secrets import Secrets, differing
from gemstead.render.bundle import Bundle, Change, diff
from gemstead.render.yamltext import document

Object = dict[str, Any]
SETTINGS = {"gemstead.yaml": "settings", "monitoring.yaml": "monitoring"}  # file -> end of its secret's name


class RunPlace:
    """One deployment's services in one region of one project."""

    def __init__(self, google: Google, name: str, project: str, region: str) -> None:
        self.deployment, self.project = name, project
        self.region = region or "europe-west4"
        self.name = f"Cloud Run, project {project}, region {self.region}"
        self._google, self._secrets = google, Secrets(google, project)

    def pieces(self, bundle: Bundle) -> tuple[Piece, ...]:
        found = []
        for path, text in bundle.files.items():
            folder, _, file = path.rpartition("/")
            if file in SETTINGS and folder:
                name = f"{folder}-{SETTINGS[file]}"
                found.append(Piece(f"Secret {name}", {"name": name, "text": text}))
            elif file == "service.yaml":
                service = yaml.safe_load(text)
                found.append(Piece(f"Service {service['metadata']['name']}", service, 1))
        return tuple(sorted(found, key=lambda piece: piece.stage))

    def differences(self, pieces: Sequence[Piece]) -> tuple[Change, ...]:
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        for piece in pieces:
            if piece.key.startswith("Secret "):
                after[piece.key] = piece.document["text"]
                there = self._secrets.read(piece.document["name"])
                if there is not None:
                    before[piece.key] = there
                continue
            after[piece.key] = document(piece.document)
            live = self._service(piece.document["metadata"]["name"])
            if live is not None:
                before[piece.key] = document(differing(live, piece.document))
        for gone in self.unwanted(pieces, ()):
            before[gone] = "there\n"
        return diff(before, after)

    def going_back(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        return tuple(pieces)

    def unwanted(self, pieces: Sequence[Piece], history: Sequence[Record]) -> tuple[str, ...]:
        wanted = {piece.key for piece in pieces}
        answer = self._ask("GET", "", labelSelector=f"gemstead={self.deployment}")
        there = [f"Service {one['metadata']['name']}" for one in answer.get("items", [])]
        return tuple(one for one in there if one not in wanted)

    def apply(self, piece: Piece) -> None:
        if piece.key.startswith("Secret "):
            self._secrets.write(piece.document["name"], piece.document["text"])
            return
        name = piece.document["metadata"]["name"]
        live = self._service(name)
        if live is None:
            self._ask("POST", "", piece.document)
        elif differing(live, piece.document) != piece.document:
            self._ask("PUT", f"/{name}", piece.document)

    def look(self, piece: Piece) -> Seen:
        if piece.key.startswith("Secret "):
            return Seen(True)
        live = self._service(piece.document["metadata"]["name"])
        if live is None:
            return Seen(False, "it has gone: someone removed it", hopeless=True)
        status = live.get("status") or {}
        if status.get("observedGeneration", 0) < live["metadata"].get("generation", 1):
            return Seen(False, "Cloud Run has not looked at it yet")
        ready: Object = next((one for one in status.get("conditions", []) if one.get("type") == "Ready"), {})
        if ready.get("status") == "True":
            return Seen(True)
        return Seen(
            False, ready.get("message") or "the revision starts", hopeless=ready.get("status") == "False"
        )

    def remove(self, key: str) -> None:
        try:
            self._ask("DELETE", f"/{key.partition(' ')[2]}")
        except Missing:
            return

    def history(self) -> tuple[Record, ...]:
        return self._secrets.history(f"{self.deployment}-applied")

    def remember(self, record: Record) -> None:
        self._secrets.remember(f"{self.deployment}-applied", record)

    def url(self) -> str:
        """Unknown: callers need Google's identity as well, and most services are not open to the internet."""
        return ""

    def _service(self, name: str) -> Object | None:
        try:
            return self._ask("GET", f"/{name}")
        except Missing:
            return None

    def _ask(self, method: str, name: str, body: Object | None = None, **query: str) -> Object:
        if not self.project:
            raise PlaceError("deploy.cloud.project: name the Google Cloud project")
        path = f"/apis/serving.knative.dev/v1/namespaces/{self.project}/services{name}"
        return self._google.ask("run", self.region, method, path, body, **query)
