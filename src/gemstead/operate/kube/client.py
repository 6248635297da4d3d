"""The few verbs of the Kubernetes API that applying needs, over HTTP, for any kind that the cluster knows.

Which cluster, its certificates and who we are there is lightkube's to read (`KUBECONFIG`, exec plugins such as GKE's,
a pod's own account); this is its one door. Objects stay plain mappings: what is rendered is what is sent, and a kind
that nobody here has heard of works as well as a Deployment does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2

from gemstead.operate.apply.piece import PlaceError

Object = dict[str, Any]
MANAGER = "gemstead"
TIMEOUT_S = 30.0


class Missing(PlaceError):
    """There is no such object, or the cluster has no such kind."""


class Cluster:
    """One cluster, as one user."""

    def __init__(self, http: httpx2.Client, name: str = "") -> None:
        self.http = http
        self.name = name
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}  # apiVersion -> kind -> (plural, namespaced)

    def get(self, path: str, **query: str) -> Object:
        return self._ask("GET", path, query)

    def read(self, one: Object) -> Object | None:
        """The object as it is in the cluster; None when it is not."""
        try:
            return self.get(self.path(one))
        except Missing:
            return None

    def apply(self, one: Object, *, dry: bool = False, force: bool = False) -> Object:
        """Server-side apply: only fields that we said before and say now are ours. Returns the object after it."""
        query = {"fieldManager": MANAGER, "force": "true" if force else "false"}
        if dry:
            query["dryRun"] = "All"
        return self._ask("PATCH", self.path(one), query, one, "application/apply-patch+yaml")

    def delete(self, one: Object) -> None:
        """Done as well when it is gone already; what it owns goes with it."""
        try:
            self._ask("DELETE", self.path(one), {"propagationPolicy": "Background"})
        except Missing:
            return

    def listed(self, api: str, kind: str, namespace: str, selector: str) -> list[Object]:
        """All objects of the kind with these labels; of the namespace, where the kind has one."""
        plural, namespaced = self.kind(api, kind)
        base = _base(api) + (f"/namespaces/{quote(namespace)}" if namespaced else "")
        found: list[Object] = []
        more = ""
        while True:
            query = {"labelSelector": selector, "limit": "500"} | ({"continue": more} if more else {})
            page = self.get(f"{base}/{plural}", **query)
            found += [{**one, "apiVersion": api, "kind": kind} for one in page.get("items", [])]
            more = str(page.get("metadata", {}).get("continue") or "")
            if not more:
                return found

    def kind(self, api: str, kind: str) -> tuple[str, bool]:
        """(plural, whether it lives in a namespace).

        Raises:
            Missing: the cluster has no such kind.
        """
        if api not in self._kinds:
            try:
                listed = self.get(_base(api)).get("resources", [])
            except Missing:
                listed = []
            self._kinds[api] = {
                one["kind"]: (one["name"], bool(one["namespaced"]))
                for one in listed
                if "/" not in one["name"]
            }
        if kind not in self._kinds[api]:
            raise Missing(
                f"the cluster has no kind {kind} ({api}): install what brings it, or take what asks for it out of "
                "deploy.kubernetes"
            )
        return self._kinds[api][kind]

    def forget_kinds(self) -> None:
        """Ask anew which kinds there are; some may have come with what was applied."""
        self._kinds.clear()

    def path(self, one: Object) -> str:
        """Where the object is."""
        api, kind, metadata = one["apiVersion"], one["kind"], one["metadata"]
        plural, namespaced = self.kind(api, kind)
        within = f"/namespaces/{quote(metadata.get('namespace') or 'default')}" if namespaced else ""
        return f"{_base(api)}{within}/{plural}/{quote(metadata['name'])}"

    def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None = None, kind: str = ""
    ) -> Object:
        content = None if body is None else json.dumps(body).encode()
        headers = {"accept": "application/json"} | ({"content-type": kind} if kind else {})
        try:
            answer = self.http.request(
                method, path, params=dict(query), content=content, headers=headers, timeout=TIMEOUT_S
            )
        except httpx2.HTTPError as error:
            raise PlaceError(
                f"{self.name or 'the cluster'} does not answer: {error or type(error).__name__}"
            ) from error
        if answer.status_code == 404:
            raise Missing(_said(answer))
        if answer.status_code >= 400:
            raise PlaceError(_said(answer))
        try:
            found = answer.json()
        except ValueError as error:
            raise PlaceError(f"{method} {path}: what came is not JSON") from error
        return found if isinstance(found, dict) else {}


def connect(context: str = "") -> tuple[Cluster, str]:
    """The cluster of KUBECONFIG's context (empty: the current one), and the context's namespace.

    Raises:
        PlaceError: lightkube is not installed, or nothing says which cluster.
    """
    try:
        from lightkube.config.client_adapter import Client, ConnectionParams
        from lightkube.config.kubeconfig import KubeConfig
        from lightkube.core.exceptions import ConfigError
    except ImportError as error:
        raise PlaceError(
            "applying to a cluster needs lightkube: pip install 'gemstead[kubernetes]'"
        ) from error
    try:
        found = KubeConfig.from_env().get(context or None)
        if found is None:
            raise PlaceError("no cluster is named: set KUBECONFIG, or `kubectl config use-context NAME`")
        http = Client(found, ConnectionParams(timeout=httpx2.Timeout(TIMEOUT_S)))
    except (ConfigError, OSError, ValueError, AssertionError) as error:
        raise PlaceError(f"KUBECONFIG: {error}") from error
    return Cluster(http, f"cluster {found.context_name}"), found.namespace


def _base(api: str) -> str:
    return f"/apis/{api}" if "/" in api else f"/api/{api}"


def _said(answer: httpx2.Response) -> str:
    """What the API server says, in one line."""
    try:
        said = answer.json()
        message = str(said.get("message") or said)
    except (ValueError, AttributeError):
        message = answer.text
    hint = ""
    if answer.status_code == 409 and "conflict" in message.casefold():
        hint = "; someone else has set it: `--force` takes it over"
    elif answer.status_code in (401, 403):
        hint = "; see `kubectl auth whoami` and what that user may do"
    return f"{message[:1000] or 'refused'} (status {answer.status_code}){hint}"
