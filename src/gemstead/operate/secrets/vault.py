"""Secrets of Vault or OpenBao, KV version 2: the one door to hvac (`pip install 'gemstead[vault]'`).

Whoever logs in (AppRole, or as a Pod of Kubernetes) gets a token with an end. A new one is taken when four fifths of
its time are over, and once when Vault says that it no longer holds. Tokens stay in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.operate.secrets.reference import NoSecret, Reference, named

if TYPE_CHECKING:
    from gemstead.spec.secrets import VaultSecretsSpec

TIMEOUT_S = 10
RENEW_AT = 0.8


class Vault:
    """One Vault.

    Args:
        spec: where it is and how to log in.
        local: reads an `env:` or `file:` reference.
    """

    def __init__(self, spec: VaultSecretsSpec, local: Callable[[str], str]) -> None:
        try:
            import hvac
        except ImportError:
            raise NoSecret("vault: needs a package more: pip install 'gemstead[vault]'") from None
        self._spec, self._local = spec, local
        ca = str(Path(spec.ca).expanduser()) if spec.ca else True
        self._client: Any = hvac.Client(
            url=spec.address, namespace=spec.namespace or None, verify=ca, timeout=TIMEOUT_S
        )
        self._client.token = None  # hvac takes VAULT_TOKEN by itself; only the file's word counts here
        self._until = 0.0

    def __repr__(self) -> str:
        return f"Vault({self._spec.address})"

    def read(self, reference: Reference) -> str:
        """The field of the secret's latest version.

        Raises:
            NoSecret: Vault cannot be reached, refuses, or has no such secret.
        """
        from hvac import exceptions

        try:
            return self._read(reference, exceptions)
        except exceptions.InvalidPath:
            raise NoSecret(
                f"{reference}: there is no such secret in Vault (the form is vault:MOUNT/PATH#FIELD)"
            ) from None
        except exceptions.Forbidden:
            raise NoSecret(
                f"{reference}: Vault refuses; give the policy `read` on {_api_path(reference)}"
            ) from None
        except exceptions.VaultError as error:
            raise NoSecret(f"{reference}: Vault answers {type(error).__name__}") from None
        except OSError as error:  # what requests raises
            raise NoSecret(
                f"{reference}: {self._spec.address} cannot be reached ({type(error).__name__})"
            ) from None

    def _read(self, reference: Reference, exceptions: Any) -> str:
        fresh = self._log_in()
        try:
            return self._fetch(reference)
        except exceptions.Forbidden:
            if fresh:
                raise
        self._until = 0.0
        self._log_in()
        return self._fetch(reference)

    def _fetch(self, reference: Reference) -> str:
        mount, _, path = reference.name.partition("/")
        answer = self._client.secrets.kv.v2.read_secret_version(
            path=path, mount_point=mount, raise_on_deleted_version=True
        )
        return named(reference, answer["data"]["data"])

    def _log_in(self) -> bool:
        """Whether a new token was taken."""
        if time.monotonic() < self._until:
            return False
        spec, auth = self._spec, self._client.auth
        if spec.auth == "token":
            self._client.token = self._said("token", spec.token)
            self._until = time.monotonic() + TIMEOUT_S
            return True
        if spec.auth == "approle":
            answer = auth.approle.login(
                role_id=self._said("role_id", spec.role_id),
                secret_id=self._said("secret_id", spec.secret_id),
                mount_point=spec.mount or "approle",
            )
        else:
            answer = auth.kubernetes.login(
                role=spec.role,
                jwt=self._local(f"file:{spec.token_file}"),
                mount_point=spec.mount or "kubernetes",
            )
        self._client.token = answer["auth"]["client_token"]
        self._until = time.monotonic() + RENEW_AT * (answer["auth"]["lease_duration"] or 3600)
        return True

    def _said(self, name: str, reference: str | None) -> str:
        if not reference:
            raise NoSecret(f"secrets.vault.{name} is not said, and auth: {self._spec.auth} needs it")
        return self._local(reference)


def _api_path(reference: Reference) -> str:
    mount, _, path = reference.name.partition("/")
    return f"{mount}/data/{path}"
