"""A Kubernetes API in this process: enough of it that `gemstead apply` cannot tell the difference.

It keeps objects, knows kinds, carries out server-side apply with field managers (fields that a manager no longer says
go, fields of another manager conflict), lists by labels, and lets workloads become ready after a few looks. It can be
told to fail at the nth change: before anything is done (status 500), or after it is done and before it is said (the
connection breaks), which are the two ways in which a real one leaves a client in doubt.
"""

from __future__ import annotations

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gemstead.testing.served import Served

Object = dict[str, Any]
Path = tuple[str, ...]
# apiVersion -> kind -> (plural, namespaced).
KINDS: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "Namespace": ("namespaces", False),
        "ConfigMap": ("configmaps", True),
        "Secret": ("secrets", True),
        "Service": ("services", True),
        "ServiceAccount": ("serviceaccounts", True),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
        "Pod": ("pods", True),
    },
    "apps/v1": {"Deployment": ("deployments", True), "StatefulSet": ("statefulsets", True)},
    "batch/v1": {"Job": ("jobs", True), "CronJob": ("cronjobs", True)},
    "networking.k8s.io/v1": {"NetworkPolicy": ("networkpolicies", True), "Ingress": ("ingresses", True)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "rbac.authorization.k8s.io/v1": {
        "Role": ("roles", True),
        "RoleBinding": ("rolebindings", True),
        "ClusterRole": ("clusterroles", False),
        "ClusterRoleBinding": ("clusterrolebindings", False),
    },
    "scheduling.k8s.io/v1": {"PriorityClass": ("priorityclasses", False)},
    "autoscaling/v2": {"HorizontalPodAutoscaler": ("horizontalpodautoscalers", True)},
}


class ClusterApi(Served):
    """Use as a context manager; `url` is where it answers."""

    def __init__(self, *, looks: int = 1) -> None:
        self.objects: dict[tuple[str, str, str, str], Object] = {}  # (api, plural, namespace, name)
        self.managers: dict[tuple[str, str, str, str], dict[str, Object]] = {}
        self.looks_needed = looks  # reads after a change until a workload is ready
        self.looks: dict[tuple[str, str, str, str], int] = {}
        self.changes = 0  # requests that change something
        self.fail_at, self.fail_how = 0, "before"
        self.stuck: set[str] = set()  # names of workloads that never become ready
        self.lock = threading.Lock()
        super().__init__(_handler(self))

    def there(self, kind: str) -> dict[str, Object]:
        """Objects of a kind, by name."""
        return {at[3]: one for at, one in self.objects.items() if one["kind"] == kind}

    # -- verbs; each returns (status, body) -----------------------------------------------------------------

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, Object] | None:
        """The answer to a request; None: the connection breaks."""
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        steps = [unquote(step) for step in parts.path.strip("/").split("/")]
        api, rest = (steps[1], steps[2:]) if steps[0] == "api" else ("/".join(steps[1:3]), steps[3:])
        if api not in KINDS:
            return _no(404, f"the server could not find the requested resource: {api}")
        if not rest:
            resources = [
                {"name": plural, "kind": kind, "namespaced": within}
                for kind, (plural, within) in KINDS[api].items()
            ]
            return 200, {"kind": "APIResourceList", "groupVersion": api, "resources": resources}
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        at = (api, plural, namespace, name)
        if not name:
            return 200, self._list(at, query.get("labelSelector", ""))
        if method == "GET":
            return self._read(at)
        return self._change(method, at, query, body)

    def _change(
        self, method: str, at: tuple[str, str, str, str], query: dict[str, str], body: bytes
    ) -> tuple[int, Object] | None:
        dry = query.get("dryRun") == "All"
        if not dry:
            self.changes += 1
            if self.changes == self.fail_at and self.fail_how == "before":
                return _no(500, "etcdserver: request timed out")
        if method == "PATCH":
            found = self._apply(
                at, json.loads(body), query.get("fieldManager", ""), query.get("force") == "true", dry
            )
        elif at in self.objects:
            gone = self.objects.pop(at)
            self.managers.pop(at, None)
            found = 200, gone
        else:
            found = _no(404, f'{at[1]} "{at[3]}" not found')
        if not dry and self.changes == self.fail_at and self.fail_how == "after":
            return None
        return found

    def _list(self, at: tuple[str, str, str, str], selector: str) -> Object:
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        found = [
            {
                key: value for key, value in one.items() if key not in ("apiVersion", "kind")
            }  # as lists leave them out
            for there, one in sorted(self.objects.items())
            if there[:2] == at[:2]
            and at[2] in ("", there[2])
            and wanted.items() <= (one["metadata"].get("labels") or {}).items()
        ]
        return {"kind": "List", "items": found, "metadata": {}}

    def _read(self, at: tuple[str, str, str, str]) -> tuple[int, Object]:
        if at not in self.objects:
            return _no(404, f'{at[1]} "{at[3]}" not found')
        self.looks[at] = self.looks.get(at, 0) + 1
        if self.looks[at] >= self.looks_needed and at[3] not in self.stuck:
            _settle(self.objects[at])
        return 200, self.objects[at]

    def _apply(
        self, at: tuple[str, str, str, str], said: Object, manager: str, force: bool, dry: bool
    ) -> tuple[int, Object]:
        if at[2] and ("v1", "namespaces", "", at[2]) not in self.objects:
            return _no(404, f'namespaces "{at[2]}" not found')
        old, managers = self.objects.get(at), self.managers.get(at, {})
        new = copy.deepcopy(old) if old else {"status": {}}
        mine, before = _leaves(said), _leaves(managers.get(manager, {}))
        others = {path: who for who, one in managers.items() if who != manager for path in _leaves(one)}
        for path, value in mine.items():
            if path in others and _at(new, path) != value and not force:
                return _no(
                    409, f'Apply failed with 1 conflict: conflict with "{others[path]}": .{".".join(path)}'
                )
        for path in before.keys() - mine.keys() - others.keys():
            _cut(new, path)
        for path, value in mine.items():
            _set(new, path, copy.deepcopy(value))
        metadata = new["metadata"]
        metadata.setdefault("uid", f"uid-{len(self.objects)}")
        if old is None or old.get("spec") != new.get("spec"):
            metadata["generation"] = metadata.get("generation", 0) + 1
        metadata["managedFields"] = [{"manager": who} for who in sorted({*managers, manager})]
        if not dry:
            self.objects[at] = new
            self.managers[at] = {**managers, manager: said}
            if old is None or old["metadata"].get("generation") != metadata.get("generation"):
                self.looks[at] = 0
        return 200 if old else 201, new


def _settle(one: Object) -> None:
    """The workload becomes what it should be."""
    wanted = one.get("spec", {}).get("replicas", 1)
    generation = one["metadata"].get("generation", 1)
    if one["kind"] in ("Deployment", "StatefulSet"):
        one["status"] = {"observedGeneration": generation, "replicas": wanted, "updatedReplicas": wanted,
                         "readyReplicas": wanted, "availableReplicas": wanted}  # fmt: skip
    elif one["kind"] == "Job":
        one["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Every field that is not a mapping, by its path; a list is one field."""
    if isinstance(value, dict) and value:
        return {
            one: leaf for name, inner in value.items() for one, leaf in _leaves(inner, (*path, name)).items()
        }
    return {path: value} if path else {}


def _at(one: Any, path: Path) -> Any:
    for name in path:
        one = one.get(name) if isinstance(one, dict) else None
    return one


def _set(one: Object, path: Path, value: Any) -> None:
    for name in path[:-1]:
        one = one.setdefault(name, {})
    one[path[-1]] = value


def _cut(one: Object, path: Path) -> None:
    for name in path[:-1]:
        one = one.get(name, {})
    one.pop(path[-1], None)


def _no(status: int, message: str) -> tuple[int, Object]:
    return status, {"kind": "Status", "status": "Failure", "message": message, "code": status}


def _handler(api: ClusterApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body in one packet: the other side acknowledges late

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with api.lock:
                found = api.answer(self.command, self.path, body)
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

        do_GET = do_PATCH = do_DELETE = do_POST = _serve  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler
