"""Signed tokens (JWT) to callers: what RFC 8725 and RFC 9068 ask of whoever believes one.

A token is believed when it is small, well-formed and signed by a key of an issuer in the file, with an algorithm that
the file allows for that issuer and that fits the key; when it is meant for us, valid now, and of the kind that is
expected; and when nobody has had it refused (`revoke`). What a token says about its own keys (`jwk`, `jku`, `x5u`,
`x5c`) is never looked at, and any `crit` is refused, since we know no extension that must be understood.

The first look costs about 0.1 ms. What was found is remembered by the SHA-256 of the token until it expires, so that
each further call costs a hash and a lookup. Whatever could change the answer (keys, denials, settings) empties the
memory.

Who was verified is told (`seen`), the first time on a day and whenever what they may do has changed: so the audit log
knows what people might do who never had a key here. That costs calls nothing whose token is remembered.

Keys are fetched by the head (`wiring/identity.py`), never here. A key id that is not known may be a new key: the head
is asked to look (`ask`), at most once in `refetch_s`, and until it has looked callers are told to try again, which
official clients do by themselves. With no new key there, the token is refused.
"""

from __future__ import annotations

import binascii
import json
import warnings
from base64 import b64decode
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import jmespath
from joserfc import jwk
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jws import JWSRegistry

from gemstead.gateway.claims import Reading, certificate_names, matches
from gemstead.gateway.issuers import Came, Identity, Issuer, Signing
from gemstead.ledger.denials import NONE_DENIED, Denials
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller
from gemstead.traffic.roles import Roles

TOKEN_MOST = 16_384  # bytes
KNOWN_MOST = 16_384  # tokens remembered; some 400 bytes each
DAY_S = 86_400.0
RSA_LEAST_BITS = 2048  # RFC 7518, 3.3
RETRY_S = 1.0
_KEYS_MOST = 100
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_OF_ID_TOKENS = ("nonce", "at_hash", "c_hash", "s_hash")  # OpenID Connect Core, 2 and 3.3.2.11

warnings.filterwarnings("ignore", category=SecurityWarning, module="joserfc")


class _Trusted:
    """An issuer with its keys."""

    def __init__(self, facts: Issuer, roles: Roles) -> None:
        self.facts = facts
        self.reading = Reading(facts.claims, roles, f"the issuer {facts.name}")
        self.keys: list[Any] = []
        self.jwks = ""
        self.attempt = 0
        self.asked_at = -1e18
        self.asked_attempt = -1  # the attempt that was the last when the head was asked
        self.learn(Signing(jwks=facts.jwks))

    def learn(self, signing: Signing) -> bool:
        """Take the keys as the head has them; whether they are others than before."""
        self.attempt = signing.attempt
        if not signing.jwks or signing.jwks == self.jwks:
            return False
        self.jwks, self.keys = signing.jwks, usable_keys(signing.jwks)
        return True


class TokenBook:
    """Believes or refuses tokens and certificates, for one worker. `ask` tells the head of a key not known."""

    def __init__(
        self,
        identity: Identity,
        roles: Roles | None = None,
        ask: Callable[[str, str], None] = lambda issuer, kid: None,
        most: int = KNOWN_MOST,
        seen: Callable[[Came], None] = lambda came: None,
    ) -> None:
        self._most = most
        self._seen = seen
        self._told: dict[str, tuple[Came, int]] = {}  # what we have told of somebody, and on which day
        self._roles = roles or Roles(identity.roles)
        self._ask = ask
        self._trusted = [_Trusted(issuer, self._roles) for issuer in identity.issuers]
        self._certificates = [
            (
                jmespath.compile(one.when),
                one,
                Reading(one.claims, self._roles, f"the certificates {one.name}"),
            )
            for one in identity.certificates
        ]
        self._found: dict[bytes, tuple[Caller, float]] = {}
        self._denials: Denials = NONE_DENIED

    @property
    def knows_certificates(self) -> bool:
        return bool(self._certificates)

    @property
    def knows_issuers(self) -> bool:
        return bool(self._trusted)

    def learn(self, signing: Mapping[str, Signing]) -> None:
        """Take issuers' keys as the head has them now."""
        for one in self._trusted:
            if (new := signing.get(one.facts.name)) is not None and one.learn(new):
                self._found.clear()

    def find(self, token: bytes, now: float, denials: Denials) -> Caller:
        """Whose token this is. `now` is wall time in Unix seconds.

        Raises:
            Refused: UNAUTHENTICATED or FORBIDDEN, saying what is wrong with it; IDENTITY_PENDING, its key is being
            fetched.
        """
        if denials is not self._denials:
            self._denials = denials
            self._found.clear()
        digest = sha256(token).digest()
        found = self._found.get(digest)
        if found is None or now >= found[1]:
            found = self._verify(token, now)
            self._remember(digest, found)
        return found[0]

    def of_certificate(
        self, shown: tuple[bytes, dict[str, Any]], now: float, denials: Denials
    ) -> Caller | None:
        """Whose certificate this is: its SHA-256 and what `getpeercert` tells; None when it stands for nobody here.

        Raises:
            Refused: UNAUTHENTICATED, it has expired, is denied, or yields no name.
        """
        if denials is not self._denials:
            self._denials = denials
            self._found.clear()
        digest, facts = shown
        found = self._found.get(digest)
        if found is None or now >= found[1]:
            judged = self._judge(facts, now)
            if judged is None:
                return None
            found = judged
            self._remember(digest, found)
        return found[0]

    def _remember(self, digest: bytes, found: tuple[Caller, float]) -> None:
        if len(self._found) >= self._most:
            del self._found[next(iter(self._found))]
        self._found[digest] = found

    def _judge(self, facts: dict[str, Any], now: float) -> tuple[Caller, float] | None:
        """Whose certificate this is, seen for the first time, and until when it counts."""
        import ssl

        names = certificate_names(facts)
        for when, certificate, reading in self._certificates:
            if not matches(when, names):
                continue
            until = float(ssl.cert_time_to_seconds(str(facts.get("notAfter"))))
            if now >= until:
                raise _no("the client certificate has expired: get a new one")
            caller = reading.of_certificate(names, certificate)
            if self._denials.denies(certificate.name, caller.user, names["serial"], 0.0, now):
                raise _no("this client certificate was revoked here: get a new one")
            self._tell("certificate", caller, (), now)
            return caller, until
        return None

    # -- a token, seen for the first time -----------------------------------------------------------------

    def _verify(self, token: bytes, now: float) -> tuple[Caller, float]:
        """Its caller, and until when it counts."""
        if len(token) > TOKEN_MOST:
            raise _no(f"the token is larger than {TOKEN_MOST} bytes")
        parts = token.split(b".")
        if len(parts) != 3 or not all(parts[:2]):
            raise _no("the token is not a signed JWT (three parts with dots between them)")
        header, claims = _object(parts[0], "header"), _object(parts[1], "payload")
        signature = _decoded(parts[2], "signature")
        _check_header(header)
        trusted = self._issuer_of(claims)
        algorithm = header["alg"]
        if algorithm not in trusted.facts.algorithms:
            raise _no(
                f"the token is signed with `{algorithm[:32]}`, which is not accepted of {trusted.facts.name}"
            )
        if not self._signed(trusted, header, parts[0] + b"." + parts[1], signature, now):
            raise _no("the token's signature is wrong")
        until = check_claims(claims, header, trusted.facts, now)
        self._check_denied(trusted.facts, claims, now)
        caller, groups = trusted.reading.of_issuer(claims, trusted.facts)
        self._tell("token", caller, groups, now)
        return caller, until

    def _tell(self, kind: str, caller: Caller, groups: tuple[str, ...], now: float) -> None:
        """Tell of somebody who was verified, unless that was told today."""
        came = Came(
            who=caller.key_id,
            kind=kind,
            tenant=caller.tenant,
            user=caller.user,
            roles=caller.roles,
            groups=groups,
        )
        told = (came, int(now // DAY_S))
        if self._told.get(came.who) == told:
            return
        if len(self._told) >= self._most:
            del self._told[next(iter(self._told))]
        self._told[came.who] = told
        self._seen(came)

    def _issuer_of(self, claims: dict[str, Any]) -> _Trusted:
        said = claims.get("iss")
        if not isinstance(said, str):
            raise _no("the token does not say who issued it (`iss`)")
        audience = _texts(claims.get("aud"))
        issued = [one for one in self._trusted if one.facts.issuer == said]
        for one in issued:  # one issuer may stand there more than once, with other audiences
            if not audience.isdisjoint(one.facts.audience):
                return one
        if issued:
            wanted = " or ".join(issued[0].facts.audience)
            raise _no(f"the token is not meant for this service (`aud`): ask for one for {wanted}")
        raise _no("the token comes from an issuer that is not believed here")

    def _signed(
        self, trusted: _Trusted, header: dict[str, Any], signed: bytes, signature: bytes, now: float
    ) -> bool:
        """Whether one of the issuer's keys made the signature."""
        algorithm = JWSRegistry.algorithms[header["alg"]]
        kid = header.get("kid")
        keys = [key for key in trusted.keys if kid is None or key.kid == kid]
        fitting = [key for key in keys if _fits(key, header["alg"])]
        if not keys:
            self._unknown_key(trusted, kid or "", now)
        for key in fitting:
            try:
                algorithm.check_key(key)
                if algorithm.verify(signed, signature, key):
                    return True
            except (JoseError, ValueError, TypeError):
                continue
        return False

    def _unknown_key(self, trusted: _Trusted, kid: str, now: float) -> None:
        """No key has this id: have the head look, or refuse when it has looked a moment ago."""
        name = trusted.facts.name
        if trusted.asked_attempt == trusted.attempt and 0 <= now - trusted.asked_at < trusted.facts.refetch_s:
            raise _pending(name)  # it has been asked and has not answered
        if not 0 <= now - trusted.asked_at < trusted.facts.refetch_s:
            trusted.asked_at, trusted.asked_attempt = now, trusted.attempt
            self._ask(name, kid[:128])
            raise _pending(name)
        if not trusted.keys:
            raise _pending(name)
        raise _no(f"the token is signed with a key that {name} does not publish: get a new token")

    def _check_denied(self, issuer: Issuer, claims: dict[str, Any], now: float) -> None:
        issued_at = _time(claims, "iat") or _time(claims, "nbf") or 0.0
        jti = claims.get("jti")
        token_id = jti if isinstance(jti, str) else ""
        if self._denials.denies(issuer.name, str(claims["sub"]), token_id, issued_at, now):
            raise _no("this token was revoked here: sign in again, or ask whoever runs this service")


def usable_keys(jwks: str) -> list[Any]:
    """The public signature keys of a JWK set; entries that are of no use are left out (RFC 7517, 5).

    Raises:
        ValueError: it is not a JWK set.
    """
    try:
        listed = json.loads(jwks)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("this is not a JWK set") from None
    if not isinstance(listed, list):
        raise ValueError("this is not a JWK set")
    found = []
    for one in listed[:_KEYS_MOST]:
        if not isinstance(one, dict) or one.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        if one.get("use", "sig") != "sig" or "verify" not in one.get("key_ops", ["verify"]):
            continue
        # Only what makes the public key: a private part that somebody published is not wanted.
        public = {name: one[name] for name in ("kty", "n", "e", "crv", "x", "y", "kid", "alg") if name in one}
        try:
            key: Any = jwk.import_key(public)
            if public["kty"] == "RSA" and key.get_op_key("verify").key_size < RSA_LEAST_BITS:
                continue
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        found.append(key)
    return found


def check_claims(claims: dict[str, Any], header: dict[str, Any], issuer: Issuer, now: float) -> float:
    """Until when a token counts, in Unix seconds with leeway, once what it claims has been found in order.

    Raises:
        Refused: UNAUTHENTICATED: it has expired or is not valid yet, or is of another kind.
    """
    ends, begins, made = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if ends is None:
        raise _no("the token never expires (it has no `exp`)")
    if now >= ends + issuer.leeway_s:
        raise _no("the token has expired: get a new one")
    if begins is not None and now < begins - issuer.leeway_s:
        raise _no("the token is not valid yet (`nbf`): check the clocks")
    if made is not None and now < made - issuer.leeway_s:
        raise _no("the token was made in the future (`iat`): check the clocks")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise _no("the token does not say whom it is about (`sub`)")
    _check_kind(claims, header, issuer)
    return ends + issuer.leeway_s


def _check_kind(claims: dict[str, Any], header: dict[str, Any], issuer: Issuer) -> None:
    """An access token is no id token, and the other way round (RFC 8725, 3.11 and 3.12)."""
    kind = str(header.get("typ", "")).casefold()
    looks_like_id = any(name in claims for name in _OF_ID_TOKENS) or "ID" in (
        str(claims.get("typ", "")).upper(),  # Keycloak
        str(claims.get("token_use", "")).upper(),  # Amazon Cognito
    )
    if issuer.kind == "id":
        if kind.endswith("at+jwt"):
            raise _no("this is an access token, and id tokens are wanted here")
        return
    if looks_like_id:
        raise _no("this is an id token: send the access token")
    if issuer.kind == "service_account":
        cluster = claims.get("kubernetes.io")
        if not isinstance(cluster, dict) or not isinstance(cluster.get("namespace"), str):
            raise _no("this is not the token of a Kubernetes service account")
    elif issuer.strict:
        if not kind.endswith("at+jwt"):
            raise _no("this is not an access token as RFC 9068 has it (`typ` is not at+jwt)")
        if missing := [name for name in ("client_id", "iat", "jti") if name not in claims]:
            raise _no(f"this is not an access token as RFC 9068 has it (it has no `{missing[0]}`)")


def _check_header(header: dict[str, Any]) -> None:
    if not isinstance(header.get("alg"), str) or header["alg"] not in JWSRegistry.algorithms:
        raise _no("the token does not say how it is signed (`alg`)")
    if header["alg"] == "none" or header["alg"].startswith("HS"):
        raise _no("the token is not signed with a key pair: such tokens are never believed")
    if "crit" in header or "b64" in header:
        raise _no("the token wants something to be understood that is not known here (`crit`)")
    if not isinstance(header.get("kid", ""), str):
        raise _no("the token's key id (`kid`) is no text")
    kind = header.get("typ")
    if kind is not None and (not isinstance(kind, str) or kind.casefold() not in _TYPES):
        raise _no("the token's `typ` is neither at+jwt nor JWT")


def _fits(key: Any, algorithm: str) -> bool:
    """Whether the key is of the algorithm's kind, and says no other algorithm (RFC 8725, 3.1)."""
    said = key.get("alg")
    same = {"EdDSA": "Ed25519"}
    return key.key_type == JWSRegistry.algorithms[algorithm].key_type and (
        said is None or same.get(said, said) == same.get(algorithm, algorithm)
    )


def _object(part: bytes, what: str) -> dict[str, Any]:
    """A part of the token as a JSON object in which no name stands twice."""
    try:
        value = json.loads(_decoded(part, what), object_pairs_hook=_once, parse_constant=_never)
    except (ValueError, RecursionError):
        raise _no(f"the token's {what} is not a JSON object with each name once") from None
    if not isinstance(value, dict):
        raise _no(f"the token's {what} is not a JSON object with each name once")
    return value


def _decoded(part: bytes, what: str) -> bytes:
    """base64url without padding, in its one right spelling (RFC 7515, 2)."""
    text = part.translate(_FROM_URL)
    try:
        raw = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise _no(f"the token's {what} is not base64url") from None
    if binascii.b2a_base64(raw, newline=False).rstrip(b"=") != text:
        raise _no(f"the token's {what} is not base64url")
    return raw


_FROM_URL = bytes.maketrans(b"-_+/=", b"+/***")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _never(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _texts(value: Any) -> set[str]:
    """`aud`: one text or a list of texts."""
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return {one for one in listed if isinstance(one, str)}


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate.

    Raises:
        Refused: it is none.
    """
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise _no(f"the token's `{name}` is not a time")
    return float(value)


def _no(message: str) -> Refused:
    return Refused(Reason.UNAUTHENTICATED, message[0].upper() + message[1:] + ".", code="invalid_token")


def _pending(issuer: str) -> Refused:
    return Refused(
        Reason.IDENTITY_PENDING,
        f"The signing keys of {issuer} are being fetched. Please try again.",
        retry_after_s=RETRY_S,
    )
