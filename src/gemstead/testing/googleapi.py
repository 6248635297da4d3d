"""Google's APIs in this process, as far as applying to Cloud Run and Vertex AI uses them.

Every exchange is kept (`exchanges`), so that tests hold each to Google's discovery documents and to what was recorded.
It can be told to fail at the nth change, before or after it is done (see `testing/cluster.py`). It knows what Google's
pages say of these methods; it was not compared with Google.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from gemstead.testing.google_vertex import VertexApi, no
from gemstead.testing.served import Served

Object = dict[str, Any]
SERVICES = r"/apis/serving.knative.dev/v1/namespaces/[^/]+/services(?:/([^/]+))?"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer; status 0: the connection broke."""

    method: str
    path: str
    query: dict[str, str]
    body: Object
    status: int = 0
    answer: Object = field(default_factory=dict)


class GoogleApi(Served):
    """Use as a context manager; `url` is where all three APIs answer."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self.secrets: dict[str, list[bytes]] = {name: [] for name in secrets}
        self.services: dict[str, Object] = {}
        self.vertex = VertexApi()
        self.exchanges: list[Exchange] = []
        self.changes, self.fail_at, self.fail_how = 0, 0, "before"
        self._lock = threading.Lock()
        super().__init__(_handler(self))

    @property
    def asked(self) -> list[tuple[str, str, Object]]:
        """Method, path and body of every change."""
        return [(one.method, one.path, one.body) for one in self.exchanges if one.method != "GET"]

    def answer(self, method: str, url: str, raw: bytes) -> tuple[int, Object] | None:
        """(status, body); None: the connection breaks."""
        parts = urlsplit(url)
        path, query = unquote(parts.path), dict(parse_qsl(parts.query))
        with self._lock:
            body = json.loads(raw) if raw else {}
            found = self.found(method, path, query, body)
            status, answer = found or (0, {})
            self.exchanges.append(Exchange(method, path, query, body, status, json.loads(json.dumps(answer))))
            return found

    def found(self, method: str, path: str, query: dict[str, str], body: Object) -> tuple[int, Object] | None:
        """The answer to one request."""
        if method == "GET":
            return self._read(path, query)
        self.changes += 1
        if self.changes == self.fail_at and self.fail_how == "before":
            return no(503, "The service is currently unavailable.")
        answer = self._change(method, path, query, body)
        return None if self.changes == self.fail_at else answer

    def _read(self, path: str, query: dict[str, str]) -> tuple[int, Object]:
        if found := re.fullmatch(r"/v1/(projects/[^/]+/secrets/([^/]+)/versions)/latest:access", path):
            versions = self.secrets.get(found[2])
            if not versions:
                return no(404, f"Secret [{found[2]}] not found or has no versions.")
            data = base64.b64encode(versions[-1]).decode()
            return 200, {"name": f"{found[1]}/{len(versions)}", "payload": {"data": data}}
        if found := re.fullmatch(SERVICES, path):
            if found[1]:
                there = self.services.get(found[1])
                return (200, there) if there is not None else no(404, f"no {found[1]}")
            items = list(self.services.values())
            return 200, {"apiVersion": "serving.knative.dev/v1", "kind": "ServiceList", "items": items}
        return self.vertex.read(path.removeprefix("/v1/"), query)

    def _change(self, method: str, path: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        if found := re.fullmatch(r"/v1/(projects/[^/]+/secrets/([^/]+)):addVersion", path):
            if found[2] not in self.secrets:
                return no(404, f"Secret [{found[2]}] not found.")
            self.secrets[found[2]].append(base64.b64decode(body["payload"]["data"]))
            return 200, {"name": f"{found[1]}/versions/{len(self.secrets[found[2]])}", "state": "ENABLED"}
        if found := re.fullmatch(SERVICES, path):
            return self._service(method, found[1] or "", body)
        return self.vertex.change(method, path.removeprefix("/v1/"), query, body)

    def _service(self, method: str, name: str, body: Object) -> tuple[int, Object]:
        if method == "DELETE":
            if self.services.pop(name, None) is None:
                return no(404, f"no {name}")
            return 200, {"status": "Success"}
        name = body["metadata"]["name"]
        if method == "POST" and name in self.services:
            return no(409, f"{name} already exists")
        if method == "PUT" and name not in self.services:
            return no(404, f"no {name}")
        generation = self.services.get(name, {}).get("metadata", {}).get("generation", 0) + 1
        self.services[name] = {
            **body,
            "metadata": {**body["metadata"], "generation": generation, "uid": "1"},
            "status": {"observedGeneration": generation, "conditions": [{"type": "Ready", "status": "True"}]},
        }
        return 200, self.services[name]


def _handler(api: GoogleApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body in one packet: the other side acknowledges late

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            found = api.answer(self.command, self.path, raw)
            if found is None:
                self.close_connection = True
                self.connection.close()
                return
            text = json.dumps(found[1]).encode()
            self.send_response(found[0])
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            self.wfile.flush()

        do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = _serve  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler
