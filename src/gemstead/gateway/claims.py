"""From the claims of a token, or the names in a certificate, to a `Caller`.

Claims are believed here: that they may be is for `tokens.py` and for TLS to say. Expressions are compiled once for
each issuer and evaluated once for each token. What they yield is checked like anything from outside: names of at most
128 printable characters, roles that exist. An expression that yields something else refuses the caller; guessing
would put a call on somebody else's bill.
"""

from __future__ import annotations

from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from gemstead.gateway.issuers import Certificate, Claims, Issuer
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller
from gemstead.traffic.roles import Roles

LETTERS_MOST = 128
LIST_MOST = 1024  # groups of one token; Entra ID leaves groups out beyond 200


class Reading:
    """The expressions of one issuer or kind of certificate, compiled."""

    def __init__(self, claims: Claims, roles: Roles, where: str) -> None:
        self._where = where
        self._roles = roles
        self._compiled = {
            name: jmespath.compile(text)
            for name in Claims.__struct_fields__
            if (text := getattr(claims, name))
        }

    def of_issuer(self, claims: dict[str, Any], issuer: Issuer) -> tuple[Caller, tuple[str, ...]]:
        """Whose token this is, and which of their groups gave roles.

        Raises:
            Refused: UNAUTHENTICATED, the claims say nothing of use; FORBIDDEN, they give no role.
        """
        groups = set(self._list("groups", claims))
        granting = [(group, role) for group, role in issuer.grants if group in groups]
        said = self._list("roles", claims)
        roles = self._roles.only_known((*said, *(role for _, role in granting), *issuer.default_roles))
        if not roles:
            raise Refused(
                Reason.FORBIDDEN,
                f"{issuer.name} vouches for you, but gives you no role here: ask whoever runs this service to add "
                "one of your groups (identity.issuers.grants in gemstead.yaml).",
            )
        caller = self._caller(claims, roles, f"{issuer.name}:{claims.get('sub')}"[:LETTERS_MOST])
        return caller, tuple(dict.fromkeys(group for group, _ in granting))

    def of_certificate(self, names: dict[str, Any], certificate: Certificate) -> Caller:
        """Whose certificate this is.

        Raises:
            Refused: UNAUTHENTICATED, its names yield nothing of use.
        """
        roles = self._roles.only_known(certificate.roles)
        return self._caller(names, roles, f"{certificate.name}:{names.get('serial')}"[:LETTERS_MOST])

    def _caller(self, claims: dict[str, Any], roles: tuple[str, ...], key_id: str) -> Caller:
        models = self._list("models", claims) if "models" in self._compiled else None
        return Caller(
            key_id=key_id,
            tenant=self._text("tenant", claims, wanted=True),
            app=self._text("app", claims),
            user=self._text("user", claims, wanted=True),
            roles=roles,
            models=None if models is None else frozenset(models),
        )

    def _text(self, name: str, claims: dict[str, Any], *, wanted: bool = False) -> str:
        found = self._value(name, claims)
        if found is None or found == "":
            if wanted:
                raise _useless(self._where, name, "nothing")
            return ""
        if not isinstance(found, str):
            raise _useless(self._where, name, "something that is no text")
        if len(found) > LETTERS_MOST or not found.isprintable():
            raise _useless(self._where, name, f"no plain text of up to {LETTERS_MOST} characters")
        return found

    def _list(self, name: str, claims: dict[str, Any]) -> list[str]:
        found = self._value(name, claims)
        if isinstance(found, str):
            found = [found] if found else []
        if found is None or found is False:
            return []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise _useless(self._where, name, "something that is no list of texts")
        if len(found) > LIST_MOST:
            raise _useless(self._where, name, f"more than {LIST_MOST} entries")
        return found

    def _value(self, name: str, claims: dict[str, Any]) -> Any:
        expression = self._compiled.get(name)
        if expression is None:
            return None
        try:
            return expression.search(claims)
        except (JMESPathError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError):
            raise _useless(self._where, name, "nothing, since it does not fit these claims") from None


def matches(when: Any, names: dict[str, Any]) -> bool:
    """Whether a compiled expression holds for a certificate's names: it yields something that is not empty."""
    try:
        return bool(when.search(names))
    except (JMESPathError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError):
        return False


def certificate_names(found: dict[str, Any]) -> dict[str, Any]:
    """The names in a certificate, from the form of `ssl.SSLSocket.getpeercert`, as expressions see them."""
    names: dict[str, Any] = {
        "subject": _pairs(found.get("subject", ())),
        "issuer": _pairs(found.get("issuer", ())),
        "serial": str(found.get("serialNumber", "")),
        "dns": [],
        "uri": [],
        "email": [],
        "ip": [],
    }
    kinds = {"DNS": "dns", "URI": "uri", "email": "email", "IP Address": "ip"}
    for kind, value in found.get("subjectAltName", ()):
        if kind in kinds:
            names[kinds[kind]].append(value)
    return names


_SHORT = {
    "commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
    "localityName": "L", "stateOrProvinceName": "ST", "emailAddress": "email", "userId": "UID",
}  # fmt: skip


def _pairs(name: Any) -> dict[str, str]:
    """A distinguished name; of a part that stands there twice the first."""
    found: dict[str, str] = {}
    for relative in name:
        for kind, value in relative:
            found.setdefault(_SHORT.get(kind, kind), value)
    return found


def _useless(where: str, name: str, what: str) -> Refused:
    return Refused(
        Reason.UNAUTHENTICATED,
        f"Who you are cannot be told: the expression for `{name}` of {where} yields {what}. Tell whoever runs this "
        "service.",
        code="invalid_token",
    )
