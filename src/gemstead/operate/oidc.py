"""What an OpenID provider publishes, and what it answers: discovery, signing keys, sign-in, refresh.

Only the provider named in the file is asked. Everything comes over TLS (or from this machine itself), redirects are
not followed, answers are bounded in size and time, and a discovery document that is somebody else's is refused
(OpenID Connect Discovery 1.0, 4.3). Which keys are of use, and whether a token is believed, is decided elsewhere
(`gateway/tokens.py`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

ANSWER_MOST = 1 << 20  # bytes
WITHIN_S = 10.0
_SAFE = re.compile(r"^(https://|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|$))")


class ProviderTrouble(Exception):
    """The provider cannot be asked, or answered with something else. One sentence; it holds no secret.

    `code` is the provider's own word (RFC 6749, 5.2), if it gave one.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Provider:
    """Where an issuer publishes what it publishes."""

    name: str
    issuer: str
    jwks_url: str = ""
    jwks_file: str = ""
    discovery_url: str = ""
    ca: str = ""
    bearer: Callable[[], str] = field(
        default=lambda: "", compare=False
    )  # read anew each time: such tokens change
    bearer_from: str = ""  # the reference, so that a changed one is noticed
    refresh_s: float = 300.0
    refetch_s: float = 30.0


def client(provider: Provider) -> httpx2.AsyncClient:
    """A client that follows nobody and believes only the CA that the file names, if it names one.

    Raises:
        ProviderTrouble: that CA cannot be read.
    """
    try:
        trust = ssl.create_default_context(cafile=provider.ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ProviderTrouble(f"the CA {provider.ca} of {provider.name} cannot be read: {error}") from None
    return httpx2.AsyncClient(verify=trust, timeout=WITHIN_S, follow_redirects=False)


async def discover(provider: Provider, http: httpx2.AsyncClient) -> dict[str, Any]:
    """The provider's discovery document.

    Raises:
        ProviderTrouble: it cannot be had, or is another issuer's.
    """
    url = provider.discovery_url or provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
    found = await _json(http, "GET", url, provider)
    if found.get("issuer") != provider.issuer:
        raise ProviderTrouble(
            f"{url} speaks for {str(found.get('issuer'))[:200]!r} and not for {provider.issuer!r}: write the issuer "
            "exactly as it calls itself"
        )
    return found


async def signing_keys(provider: Provider, http: httpx2.AsyncClient) -> str:
    """The issuer's keys, as the JSON text of a JWK set.

    Raises:
        ProviderTrouble: they cannot be had.
    """
    if provider.jwks_file:
        try:
            return await asyncio.to_thread(_text_of, provider.jwks_file)
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderTrouble(f"the keys of {provider.name} cannot be read: {error}") from None
    url = provider.jwks_url or str((await discover(provider, http)).get("jwks_uri", ""))
    return json.dumps(await _json(http, "GET", url, provider))


def _text_of(path: str) -> str:
    return Path(path).expanduser().read_text("utf-8")


# Signing in.


@dataclass(frozen=True, slots=True)
class Client:
    """Us, as the provider knows us."""

    client_id: str
    client_secret: str = field(default="", repr=False)
    scopes: tuple[str, ...] = ("openid",)
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sign-in with a browser that is under way: what must come back, and what only we know."""

    url: str
    state: str
    nonce: str
    verifier: str = field(repr=False)
    redirect: str


def begin(document: Mapping[str, Any], us: Client, redirect: str) -> Attempt:
    """An authorization-code sign-in with PKCE (RFC 7636, S256), to be opened in a browser.

    Raises:
        ProviderTrouble: the provider has no page for it.
    """
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": us.client_id,
        "redirect_uri": redirect,
        "scope": " ".join(us.scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if us.resource:
        asked["resource"] = us.resource
    if "offline_access" in us.scopes:
        asked["prompt"] = "consent"  # OpenID Connect Core, 11
    page = _endpoint(document, "authorization_endpoint")
    url = f"{page}{'&' if urlsplit(page).query else '?'}{urlencode(asked)}"
    return Attempt(url, state, nonce, verifier, redirect)


def code_of(attempt: Attempt, query: str, document: Mapping[str, Any]) -> str:
    """The code that came back to `redirect`.

    Raises:
        ProviderTrouble: the provider refused, or this is the answer to another sign-in.
    """
    came = {name: values[0] for name, values in parse_qs(query).items()}
    if not secrets.compare_digest(came.get("state", "").encode(), attempt.state.encode()):
        raise ProviderTrouble("this is the answer to another sign-in: begin again")
    if "error" in came:
        raise ProviderTrouble(f"the provider refused: {_said(came)}", came["error"])
    issuer = str(document.get("issuer"))
    by_name = document.get("authorization_response_iss_parameter_supported") is True
    if came.get("iss", issuer) != issuer or (by_name and "iss" not in came):  # RFC 9207
        raise ProviderTrouble("the answer comes from another provider: begin again")
    if not came.get("code"):
        raise ProviderTrouble("the provider sent no code: begin again")
    return came["code"]


async def redeem(
    document: Mapping[str, Any], us: Client, attempt: Attempt, code: str, http: httpx2.AsyncClient
) -> dict[str, Any]:
    """The tokens for a code."""
    asked = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": attempt.redirect,
        "code_verifier": attempt.verifier,
    }
    return await _tokens(document, us, asked, http)


def check_id_token(
    tokens: Mapping[str, Any], document: Mapping[str, Any], us: Client, attempt: Attempt, now: float
) -> None:
    """Whether the id token that came with a sign-in belongs to it. It came from the provider itself over TLS, which
    stands for its signature (OpenID Connect Core, 3.1.3.7); none is sent where the scope `openid` was not asked for.

    Raises:
        ProviderTrouble: it is another sign-in's, another client's or another provider's.
    """
    if "id_token" not in tokens:
        if "openid" in us.scopes:
            raise ProviderTrouble("the provider sent no id token")
        return
    try:
        part = str(tokens["id_token"]).split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        audience = said["aud"] if isinstance(said["aud"], list) else [said["aud"]]
        good = (
            said["iss"] == document.get("issuer")
            and us.client_id in audience
            and said.get("azp", us.client_id) == us.client_id
            and secrets.compare_digest(str(said["nonce"]), attempt.nonce)
            and float(said["exp"]) > now - 60
        )
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        good = False
    if not good:
        raise ProviderTrouble("the provider's id token does not belong to this sign-in: begin again")


async def begin_device(document: Mapping[str, Any], us: Client, http: httpx2.AsyncClient) -> dict[str, Any]:
    """What to show to a person who signs in on another machine (RFC 8628)."""
    page = _endpoint(document, "device_authorization_endpoint")
    asked = {"scope": " ".join(us.scopes)} | ({"resource": us.resource} if us.resource else {})
    found = await _json(http, "POST", page, None, _ours(asked, us))
    if not all(isinstance(found.get(name), str) for name in ("device_code", "user_code", "verification_uri")):
        raise ProviderTrouble(f"{page} answered without a code to show")
    return found


async def redeem_device(
    document: Mapping[str, Any], us: Client, device_code: str, http: httpx2.AsyncClient
) -> dict[str, Any] | None:
    """The tokens, once the person has agreed; None: not yet.

    Raises:
        ProviderTrouble: refused, or too late; code "slow_down" asks for five seconds more between tries.
    """
    asked = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": device_code}
    if us.resource:
        asked["resource"] = us.resource
    try:
        return await _tokens(document, us, asked, http)
    except ProviderTrouble as trouble:
        if trouble.code == "authorization_pending":
            return None
        raise


async def refresh(
    document: Mapping[str, Any], us: Client, refresh_token: str, http: httpx2.AsyncClient
) -> dict[str, Any]:
    """New tokens for a refresh token."""
    return await _tokens(document, us, {"grant_type": "refresh_token", "refresh_token": refresh_token}, http)


async def give_back(
    document: Mapping[str, Any], us: Client, refresh_token: str, http: httpx2.AsyncClient
) -> bool:
    """Whether the provider was told that a refresh token is not wanted any more (RFC 7009)."""
    if not document.get("revocation_endpoint"):
        return False
    asked = {"token": refresh_token, "token_type_hint": "refresh_token"}
    response = await http.post(_endpoint(document, "revocation_endpoint"), data=_ours(asked, us))
    return response.status_code == 200


async def _tokens(
    document: Mapping[str, Any], us: Client, asked: dict[str, str], http: httpx2.AsyncClient
) -> dict[str, Any]:
    if us.resource and "refresh" not in asked["grant_type"]:
        asked = {**asked, "resource": us.resource}
    page = _endpoint(document, "token_endpoint")
    found = await _json(http, "POST", page, None, _ours(asked, us))
    if str(found.get("token_type", "")).casefold() != "bearer" or not isinstance(
        found.get("access_token"), str
    ):
        raise ProviderTrouble(f"{page} answered without a bearer token")
    return found


def _ours(asked: dict[str, str], us: Client) -> dict[str, str]:
    secret = {"client_secret": us.client_secret} if us.client_secret else {}
    return {**asked, "client_id": us.client_id, **secret}


def _endpoint(document: Mapping[str, Any], name: str) -> str:
    url = document.get(name)
    if not isinstance(url, str):
        raise ProviderTrouble(f"the provider has no {name}: it does not offer this way to sign in")
    if not _SAFE.match(url):
        raise ProviderTrouble(f"the provider's {name} is not https: {url[:200]}")
    return url


async def _json(
    http: httpx2.AsyncClient,
    method: str,
    url: str,
    provider: Provider | None,
    form: dict[str, str] | None = None,
) -> dict[str, Any]:
    if not _SAFE.match(url):
        raise ProviderTrouble(f"{url[:200]!r} is not https")
    headers = {"Accept": "application/json"}
    if provider is not None and (bearer := await asyncio.to_thread(provider.bearer)):
        headers["Authorization"] = f"Bearer {bearer}"
    body = b""
    try:
        async with http.stream(method, url, headers=headers, data=form) as response:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > ANSWER_MOST:
                    raise ProviderTrouble(f"{url} answered with more than {ANSWER_MOST >> 20} MiB")
            status = response.status_code
    except httpx2.HTTPError as error:
        raise ProviderTrouble(f"{url} cannot be reached: {error or type(error).__name__}") from None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if status != 200:
        said = found if isinstance(found, dict) else {}
        words = f": {_said(said)}" if said.get("error") else ""
        raise ProviderTrouble(f"{url} answered {status}{words}", str(said.get("error", "")))
    if not isinstance(found, dict):
        raise ProviderTrouble(f"{url} answered with something that is no JSON object")
    return found


def _said(answer: Mapping[str, Any]) -> str:
    words = f"{answer.get('error')} {answer.get('error_description', '')}".strip()[:300]
    return "".join(letter if letter.isprintable() else " " for letter in words)
