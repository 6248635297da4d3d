"""Secrets of Google Secret Manager, by its REST form; the one door to google-auth (`pip install 'gemstead[gcp]'`).

Who asks is found as Google's libraries do (Application Default Credentials): a key file, workload identity, or the
machine's metadata server. The client library of Secret Manager itself would bring gRPC for one GET.
https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import httpx2

from gemstead.operate.secrets.reference import NoSecret, Reference, field_of

if TYPE_CHECKING:
    from gemstead.spec.secrets import GcpSecretsSpec

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT_S = 10.0


class Gcp:
    """Secret Manager, asked as whoever runs here."""

    def __init__(self, spec: GcpSecretsSpec) -> None:
        try:
            import google.auth
            from google.auth.exceptions import GoogleAuthError
        except ImportError:
            raise NoSecret("gcp-sm: needs a package more: pip install 'gemstead[gcp]'") from None
        self._address = spec.endpoint.rstrip("/")
        try:
            self._credentials: Any = google.auth.default(scopes=[SCOPE])[0]
        except GoogleAuthError as error:
            raise NoSecret(f"gcp-sm: no Google identity is found here: {type(error).__name__}") from None

    def read(self, reference: Reference) -> str:
        """The text of the version that is named, else of the latest; or a field of it.

        Raises:
            NoSecret: it cannot be had.
        """
        name = reference.name if "/versions/" in reference.name else f"{reference.name}/versions/latest"
        try:
            answer = httpx2.get(
                f"{self._address}/v1/{name}:access",
                headers={"authorization": f"Bearer {self._token()}"},
                timeout=TIMEOUT_S,
            )
        except httpx2.HTTPError as error:
            raise NoSecret(f"{reference}: Google cannot be asked ({type(error).__name__})") from None
        if answer.status_code != 200:
            remedy = {
                403: "the identity needs roles/secretmanager.secretAccessor on it",
                404: "there is no such secret or version",
            }.get(answer.status_code, f"Google answers {answer.status_code}")
            raise NoSecret(f"{reference}: {remedy}")
        try:
            text = base64.b64decode(answer.json()["payload"]["data"]).decode()
        except (ValueError, KeyError, TypeError):
            raise NoSecret(f"{reference}: holds no text") from None
        return field_of(reference, text)

    def _token(self) -> str:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        try:
            if not self._credentials.valid:
                self._credentials.refresh(Request())
        except GoogleAuthError as error:
            raise NoSecret(f"gcp-sm: Google gives no token ({type(error).__name__})") from None
        return str(self._credentials.token)
