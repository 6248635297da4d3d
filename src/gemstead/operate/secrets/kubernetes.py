"""Secrets of Kubernetes, asked of the API server as the Pod's service account: one GET, no client library.

Mounting a Secret and reading it by `file:` needs no rights at all and is the better way where the Secret's name is
known when the Pod is written. https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2

from gemstead.operate.secrets.reference import NoSecret, Reference, named

if TYPE_CHECKING:
    from gemstead.spec.secrets import KubernetesSecretsSpec

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIMEOUT_S = 10.0


class Kubernetes:
    """The API server of this cluster, or the one that the file names."""

    def __init__(self, spec: KubernetesSecretsSpec, environ: Mapping[str, str]) -> None:
        folder = Path(spec.account or ACCOUNT).expanduser()
        self._token, self._namespace = folder / "token", folder / "namespace"
        host = environ.get("KUBERNETES_SERVICE_HOST", "")
        host = f"[{host}]" if ":" in host else host
        inside = f"https://{host}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}" if host else ""
        self._address = (spec.address or inside).rstrip("/")
        if not self._address:
            raise NoSecret("k8s: this is no Pod, and secrets.kubernetes.address names no API server")
        ca = folder / "ca.crt"
        try:
            self._verify = ssl.create_default_context(cafile=str(ca) if ca.exists() else None)
        except (OSError, ssl.SSLError):
            raise NoSecret(f"k8s: {ca} is no certificate in PEM") from None

    def read(self, reference: Reference) -> str:
        """The text under the key.

        Raises:
            NoSecret: it cannot be had.
        """
        try:
            token = self._token.read_text("ascii").strip()  # kubelet renews the file
            namespace, _, name = reference.name.rpartition("/")
            namespace = namespace or self._namespace.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise NoSecret(f"{reference}: {self._token.parent} holds no service account") from None
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets/{quote(name, safe='')}"
        try:
            answer = httpx2.get(
                self._address + path,
                headers={"authorization": f"Bearer {token}"},
                timeout=TIMEOUT_S,
                verify=self._verify,
            )
        except (httpx2.HTTPError, OSError) as error:
            raise NoSecret(f"{reference}: the API server cannot be asked ({type(error).__name__})") from None
        if answer.status_code != 200:
            remedy = {
                401: "the service account's token does not hold",
                403: f"the service account may not `get` the Secret {name} in {namespace}; give it a Role",
                404: f"there is no Secret {name} in {namespace}",
            }.get(answer.status_code, f"the API server answers {answer.status_code}")
            raise NoSecret(f"{reference}: {remedy}")
        try:
            fields = answer.json().get("data") or {}
            return base64.b64decode(named(reference, fields), validate=True).decode().strip()
        except (ValueError, AttributeError):
            raise NoSecret(f"{reference}: holds no text") from None
