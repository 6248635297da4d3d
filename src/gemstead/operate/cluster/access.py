"""How to reach a Kubernetes API: from inside a pod by its service account, from outside by a kubeconfig.

Tokens are read from their file for every request, because the kubelet renews them. What a kubeconfig may also hold and
we do not run (`exec` and `auth-provider` plugins) is refused with a sentence, never passed over.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemstead.spec import document

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class CannotReach(Exception):
    """The API cannot be reached like this. The text is for the user."""

    for_user = True


@dataclass(frozen=True)
class Access:
    """Where the API is and who we are there."""

    url: str
    namespace: str = "default"  # where nothing else is said
    token_file: Path | None = None
    fixed_token: str = field(default="", repr=False)
    ca: Path | None = None
    ca_text: str = field(default="", repr=False)
    insecure: bool = False
    client_pem: bytes = field(default=b"", repr=False)  # certificate and key, where those are who we are

    def headers(self) -> dict[str, str]:
        """Who we are, now.

        Raises:
            OSError: the token cannot be read.
        """
        token = self.token_file.read_text("utf-8").strip() if self.token_file else self.fixed_token
        return {"authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext:
        """What the API's certificate is checked against.

        Raises:
            CannotReach: the certificates are none.
        """
        try:
            context = ssl.create_default_context(
                cafile=str(self.ca) if self.ca else None, cadata=self.ca_text or None
            )
            if self.insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if self.client_pem:
                with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # ssl takes files alone
                    file.write(self.client_pem)
                    file.flush()
                    context.load_cert_chain(file.name)
        except (OSError, ssl.SSLError) as error:
            raise CannotReach(f"the cluster's certificates cannot be used: {error}") from error
        return context


def in_cluster(environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> Access | None:
    """As the service account of this pod; None outside of one."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token, ca = account / "token", account / "ca.crt"
    if not host or not token.exists():
        return None
    host = f"[{host}]" if ":" in host else host
    written = account / "namespace"
    namespace = written.read_text("utf-8").strip() if written.exists() else "default"
    return Access(f"https://{host}:{port}", namespace, token_file=token, ca=ca if ca.exists() else None)


def from_kubeconfig(path: Path, context_name: str = "") -> Access:
    """As the current context (or the named one) of a kubeconfig says.

    Raises:
        CannotReach: it cannot be read, or says something that we do not do.
    """
    try:
        said = document.read(path.read_text("utf-8"), str(path)).value
    except (OSError, UnicodeDecodeError) as error:
        raise CannotReach(f"{path}: cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise CannotReach(f"{path}: is no kubeconfig")
    wanted = context_name or str(said.get("current-context") or "")
    context = _named(said, "contexts", wanted, "context", path)
    cluster = _named(said, "clusters", str(context.get("cluster", "")), "cluster", path)
    user = _named(said, "users", str(context.get("user", "")), "user", path)
    if plugin := next((kind for kind in ("exec", "auth-provider") if kind in user), ""):
        raise CannotReach(
            f"{path}: user {context.get('user')} logs in by a program ({plugin}), which is not run here; "
            "use a service account's token"
        )
    url = str(cluster.get("server", ""))
    if not url.startswith(("https://", "http://")):
        raise CannotReach(f"{path}: cluster {context.get('cluster')} has no server address")
    here = path.parent
    ca, token_file = cluster.get("certificate-authority"), user.get("tokenFile")
    return Access(
        url.rstrip("/"),
        str(context.get("namespace") or "default"),
        token_file=here / str(token_file) if token_file else None,
        fixed_token=str(user.get("token") or ""),
        ca=here / str(ca) if ca else None,
        ca_text=_data(cluster, "certificate-authority-data", path).decode("utf-8", "replace"),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
        client_pem=_client(user, here, path),
    )


def _named(said: dict[str, Any], section: str, name: str, inner: str, path: Path) -> dict[str, Any]:
    """The entry of that name in one of a kubeconfig's lists."""
    for one in said.get(section) or []:
        if isinstance(one, dict) and one.get("name") == name and isinstance(one.get(inner), dict):
            return dict(one[inner])
    raise CannotReach(f"{path}: there is no {inner} called {name!r}; see `kubectl config get-contexts`")


def _client(user: dict[str, Any], here: Path, path: Path) -> bytes:
    """Certificate and key of a user who has them, one behind the other."""
    parts = []
    for name in ("client-certificate", "client-key"):
        if data := _data(user, f"{name}-data", path):
            parts.append(data)
        elif file := user.get(name):
            try:
                parts.append((here / str(file)).read_bytes())
            except OSError as error:
                raise CannotReach(f"{path}: {name} cannot be read: {error}") from error
    return b"\n".join(parts) if len(parts) == 2 else b""


def _data(section: dict[str, Any], name: str, path: Path) -> bytes:
    try:
        return base64.b64decode(str(section.get(name) or ""), validate=True)
    except ValueError:
        raise CannotReach(f"{path}: {name} is not base64") from None
