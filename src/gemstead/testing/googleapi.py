"""Google's APIs in this process, as far as applying to Cloud Run and Vertex AI uses them.

Every body is kept with its method and path (`asked`), so that tests hold each to Google's own schemas. Operations take
one look. It can be told to fail at the nth change, before or after it is done (see `testing/cluster.py`).
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Object = dict[str, Any]


class GoogleApi:
    """Use as a context manager; `url` is where all three APIs answer."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self.secrets: dict[str, list[bytes]] = {name: [] for name in secrets}
        self.services: dict[str, Object] = {}
        self.endpoints: dict[str, Object] = {}
        self.models: dict[str, list[Object]] = {}  # name -> versions
        self.operations: dict[str, Object] = {}
        self.asked: list[tuple[str, str, Object]] = []
        self.changes, self.fail_at, self.fail_how = 0, 0, "before"
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> GoogleApi:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, url: str, raw: bytes) -> tuple[int, Object] | None:
        """(status, body); None: the connection breaks."""
        with self._lock:
            parts = urlsplit(url)
            path, query = unquote(parts.path), {name: one[-1] for name, one in parse_qs(parts.query).items()}
            if method == "GET":
                return self._read(path, query)
            body = json.loads(raw) if raw else {}
            self.asked.append((method, path, body))
            self.changes += 1
            if self.changes == self.fail_at and self.fail_how == "before":
                return _no(503, "The service is currently unavailable.")
            found = self._change(method, path, body)
            return None if self.changes == self.fail_at else found

    def _read(self, path: str, query: dict[str, str]) -> tuple[int, Object]:
        if found := re.fullmatch(r"/v1/projects/[^/]+/secrets/([^/]+)/versions/latest:access", path):
            versions = self.secrets.get(found[1])
            if not versions:
                return _no(404, f"Secret [{found[1]}] not found or has no versions.")
            return 200, {"payload": {"data": base64.b64encode(versions[-1]).decode()}}
        if found := re.fullmatch(
            r"/apis/serving.knative.dev/v1/namespaces/[^/]+/services(?:/([^/]+))?", path
        ):
            if found[1]:
                return (
                    (200, self.services[found[1]])
                    if found[1] in self.services
                    else _no(404, f"no {found[1]}")
                )
            return 200, {"items": list(self.services.values())}
        path = path.removeprefix("/v1/")
        if path in self.operations:
            self.operations[path]["done"] = True
            return 200, self.operations[path]
        if path.endswith("/endpoints"):
            return 200, {"endpoints": list(self.endpoints.values())}
        if path.endswith("/models"):
            name = query.get("filter", "").partition('"')[2].rstrip('"')
            return 200, {
                "models": [one[-1] for one in self.models.values() if one[-1]["displayName"] == name]
            }
        if path.endswith(":listVersions"):
            return 200, {"models": self.models.get(path.removesuffix(":listVersions"), [])}
        if path.endswith("/operations"):
            return 200, {"operations": [one for one in self.operations.values() if not one["done"]]}
        return _no(404, f"no {path}")

    def _change(self, method: str, path: str, body: Object) -> tuple[int, Object]:
        if found := re.fullmatch(r"/v1/projects/[^/]+/secrets/([^/]+):addVersion", path):
            if found[1] not in self.secrets:
                return _no(404, f"Secret [{found[1]}] not found.")
            self.secrets[found[1]].append(base64.b64decode(body["payload"]["data"]))
            return 200, {}
        if "/serving.knative.dev/" in path:
            return self._service(method, path.rpartition("/")[2], body)
        path = path.removeprefix("/v1/")
        if path.endswith("/endpoints"):
            name = f"{path}/{len(self.endpoints) + 1}"
            self.endpoints[name] = {**body, "name": name, "deployedModels": [], "trafficSplit": {}}
            return self._operation("CreateEndpoint")
        if path.endswith("/models:upload"):
            name = body.get("parentModel") or f"{path.removesuffix(':upload')}/{len(self.models) + 1}"
            versions = self.models.setdefault(name, [])
            versions.append({**body["model"], "name": name, "versionId": str(len(versions) + 1)})
            return self._operation("UploadModel")
        endpoint = self.endpoints.get(path.partition(":")[0])
        if endpoint is None:
            return _no(404, f"no {path}")
        return self._endpoint(method, path, endpoint, body)

    def _endpoint(self, method: str, path: str, endpoint: Object, body: Object) -> tuple[int, Object]:
        if method == "DELETE":
            if endpoint["deployedModels"]:
                return _no(400, "Endpoint has deployed models.")
            del self.endpoints[path]
        elif method == "PATCH":
            if sum(body.get("trafficSplit", {"0": 100}).values()) != 100:
                return _no(400, "Traffic percentages must sum to 100.")
            endpoint.update(body)
            return 200, endpoint
        elif path.endswith(":deployModel"):
            if sum(body["trafficSplit"].values()) != 100:
                return _no(400, "Traffic percentages must sum to 100.")
            number = str(1000 + self.changes)
            endpoint["deployedModels"].append({**body["deployedModel"], "id": number})
            split = body["trafficSplit"].items()
            endpoint["trafficSplit"] = {
                number if name == "0" else name: share for name, share in split if share
            }
        elif path.endswith(":undeployModel"):
            if endpoint["trafficSplit"].get(body["deployedModelId"]):
                return _no(400, "The deployed model still has traffic.")
            kept = [one for one in endpoint["deployedModels"] if one["id"] != body["deployedModelId"]]
            endpoint["deployedModels"] = kept
        return self._operation(path.rpartition(":")[2])

    def _service(self, method: str, name: str, body: Object) -> tuple[int, Object]:
        if method == "DELETE":
            self.services.pop(name, None)
            return 200, {}
        name = body["metadata"]["name"]
        if method == "POST" and name in self.services:
            return _no(409, f"{name} already exists")
        generation = self.services.get(name, {}).get("metadata", {}).get("generation", 0) + 1
        self.services[name] = {
            **body,
            "metadata": {**body["metadata"], "generation": generation, "uid": "1"},
            "status": {"observedGeneration": generation, "conditions": [{"type": "Ready", "status": "True"}]},
        }
        return 200, self.services[name]

    def _operation(self, what: str) -> tuple[int, Object]:
        name = f"projects/p/locations/r/operations/{len(self.operations) + 1}"
        kind = what[:1].upper() + what[1:]
        metadata = {"@type": f"type.googleapis.com/google.cloud.aiplatform.v1.{kind}OperationMetadata"}
        self.operations[name] = {"name": name, "done": False, "metadata": metadata}
        return 200, dict(self.operations[name])


def _no(status: int, message: str) -> tuple[int, Object]:
    return status, {"error": {"code": status, "message": message}}


def _handler(api: GoogleApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            found = api.answer(self.command, self.path, raw)
            if found is None:
                self.close_connection = True
                self.connection.close()
                return
            text = json.dumps(found[1]).encode()
            self.send_response(found[0])
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = _serve  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler
