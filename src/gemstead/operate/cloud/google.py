"""Google's REST APIs: one request at a time, as whoever runs here.

Bodies are sent as they were rendered, so that what was reviewed is what arrives. The addresses can be set with the
variables that `gcloud` has for it (`CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN` and others), for private endpoints and tests;
`CLOUDSDK_AUTH_ACCESS_TOKEN` is a token from elsewhere. Otherwise who we are is found as Google's libraries do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from gemstead.operate.apply.piece import PlaceError

Object = dict[str, Any]
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT_S = 60.0
OVERRIDES = "CLOUDSDK_API_ENDPOINT_OVERRIDES_"
TOKEN = "CLOUDSDK_AUTH_ACCESS_TOKEN"  # noqa: S105 - the name of a variable
HOSTS = {
    "run": "https://{region}-run.googleapis.com",
    "secretmanager": "https://secretmanager.googleapis.com",
    "aiplatform": "https://{region}-aiplatform.googleapis.com",
}


class Missing(PlaceError):
    """There is no such thing."""


class Exists(PlaceError):
    """There is one already."""


class Google:
    """The APIs, as one identity."""

    def __init__(self, token: Callable[[], str], hosts: Mapping[str, str]) -> None:
        self._token, self._hosts = token, hosts
        self._http = httpx2.Client(timeout=TIMEOUT_S)

    def ask(
        self, api: str, region: str, method: str, path: str, body: Object | None = None, **query: str
    ) -> Object:
        """The answer.

        Raises:
            Missing: status 404.
            PlaceError: refused, or nobody answers.
        """
        url = self._hosts[api].format(region=region).rstrip("/") + path
        headers = {"authorization": f"Bearer {self._token()}"}
        try:
            answer = self._http.request(method, url, json=body, params=query, headers=headers)
        except httpx2.HTTPError as error:
            raise PlaceError(
                f"Google's {api} API does not answer: {error or type(error).__name__}"
            ) from error
        try:
            found = answer.json() if answer.content else {}
        except ValueError:
            found = {}
        if answer.status_code < 400:
            return found if isinstance(found, dict) else {}
        said = (found.get("error") or {}).get("message") if isinstance(found, dict) else ""
        sentence = f"{str(said or answer.text)[:1000]} (status {answer.status_code})"
        if answer.status_code == 404:
            raise Missing(sentence)
        raise PlaceError(sentence)


def google(environ: Mapping[str, str]) -> Google:
    """The APIs as whoever runs here.

    Raises:
        PlaceError: google-auth is not installed, or no identity is found.
    """
    hosts = {api: environ.get(OVERRIDES + api.upper(), host) for api, host in HOSTS.items()}
    if given := environ.get(TOKEN, "").strip():
        return Google(lambda: given, hosts)
    return Google(_token(credentials(environ)), hosts)


def credentials(environ: Mapping[str, str]) -> Any:
    """Who we are, as google-auth has it.

    Raises:
        PlaceError: google-auth is not installed, or no identity is found.
    """
    try:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.oauth2.credentials import Credentials
    except ImportError as error:
        raise PlaceError("applying to Google Cloud needs google-auth: pip install 'gemstead[gcp]'") from error
    if given := environ.get(TOKEN, "").strip():
        return Credentials(given)  # type: ignore[no-untyped-call]
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except GoogleAuthError as error:
        raise PlaceError("no Google identity is found here: gcloud auth application-default login") from error


def _token(who: Any) -> Callable[[], str]:
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    def token() -> str:
        try:
            if not who.valid:
                who.refresh(Request())
        except GoogleAuthError as error:
            raise PlaceError(f"Google gives no token: {error}") from error
        return str(who.token)

    return token
