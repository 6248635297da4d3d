"""The `identity` section: who may call besides holders of an API key, and what each role may do.

Claims become a tenant, a user and roles by JMESPath expressions that can be read aloud: `sub`, `groups`,
`contains(groups, 'ml-admins') && 'admin' || 'developer'`. They are evaluated when a token or certificate is first
seen, in `gateway/claims.py`. What each right means is told in `traffic/roles.py`, how it all works in
docs/identity.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from gemstead.spec.part import FilePath, Part, Seconds, SecretRef

# The same words as traffic/roles.py has, held to them by a test: gateway workers know that module, and not this one.
Right = Literal[
    "inference", "models.list", "batch", "usage.own", "usage.all", "audit.read", "audit.manage", "status.read",
    "metrics.read", "config.read", "config.apply", "fleet.operate", "service.run", "keys.own", "keys.list",
    "keys.manage", "tokens.revoke", "secrets.check", "store.manage", "identity.manage",
]  # fmt: skip
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]
ROLES = ("admin", "operator", "developer", "auditor", "viewer", "service")  # those of traffic/roles.py
ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256", "ES384", "Ed25519", "EdDSA")
_HTTPS = r"^(https://[^\s?#]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/[^\s?#]*)?)$"
RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


def _compiles(text: str) -> str:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        jmespath.compile(text)
    except JMESPathError as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"is not a JMESPath expression: {first}") from None
    return text


Expression = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_compiles)]


class ClaimSpec(Part):
    """What becomes of claims: JMESPath expressions over them. A claim's name with a dot in it goes in double quotes."""

    tenant: Expression = Field(
        "'default'", description="Who pays", examples=["org_id", "'research'", "tid || 'default'"]
    )
    user: Expression = Field("sub", description="Whose call it is", examples=["email || sub"])
    app: Expression = Field("azp || client_id || ''", description="Which application calls")
    groups: Expression = Field(
        "groups || `[]`", description="Groups, as a list or one text", examples=["realm_access.roles"]
    )
    roles: Expression | None = Field(
        None,
        description="Roles, as a list or one text; those that are none here do not count; default: only those of "
        "`grants` and `default_roles`",
        examples=["contains(groups, 'ml-admins') && 'admin' || 'developer'"],
    )
    models: Expression | None = Field(
        None, description="Models that may be called, as a list; default: all", examples=["gemma_models"]
    )


class RoleGrantSpec(Part):
    """A role for the members of a group."""

    group: str = Field(min_length=1, max_length=256, description="The group, as the issuer writes it")
    role: RoleName = Field(description="The role that its members have")


class LoginSpec(Part):
    """How people sign in at this issuer: `gemstead login` and the admin port."""

    client_id: str = Field(min_length=1, max_length=256, description="The client registered at the issuer")
    client_secret: SecretRef | None = Field(
        None, description="Its secret, if it has one: a client of programs on people's machines has none"
    )
    scopes: tuple[str, ...] = Field(
        ("openid", "profile", "email", "offline_access"), description="What is asked for at sign-in"
    )
    resource: str = Field(
        "", description="The API that the token is for (RFC 8707), where the issuer wants it said"
    )


class IssuerSpec(Part):
    """One that signs tokens which are believed here: Okta, Entra ID, Keycloak, Google, a Kubernetes cluster."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")] = Field(
        description="How it is called here, in records and commands", examples=["okta"]
    )
    issuer: str = Field(
        min_length=1,
        max_length=1024,
        description="Exactly the `iss` of its tokens",
        examples=["https://acme.okta.com"],
    )
    audience: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="A token must be meant for one of these (`aud`)", examples=[["gemstead"]]
    )
    token: Literal["access", "id", "service_account"] = Field(
        "access",
        description="`access`: OAuth access tokens, and id tokens are refused; `id`: OpenID id tokens (Google); "
        "`service_account`: of Kubernetes pods",
    )
    strict: bool = Field(
        False,
        description="Only what RFC 9068 calls an access token: `typ` at+jwt, with client_id, iat and jti",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ALGORITHMS,
        min_length=1,
        description="Signatures that are accepted; those with a shared secret never are",
    )
    jwks_url: Annotated[str, Field(pattern=_HTTPS)] | None = Field(
        None, description="Where its keys are; default: as its discovery document says"
    )
    jwks_file: FilePath | None = Field(
        None, description="A file with its keys, where nothing may be fetched; read again when it changes"
    )
    discovery_url: Annotated[str, Field(pattern=_HTTPS)] | None = Field(
        None,
        description="Its discovery document; default: `/.well-known/openid-configuration` below `issuer`",
    )
    ca: FilePath | None = Field(
        None, description="Path of the CA that its server's certificate is checked with"
    )
    bearer: SecretRef | None = Field(
        None,
        description="Token that fetching its keys needs (a Kubernetes API server: `file:` of a pod's own)",
    )
    leeway_s: float = Field(30.0, ge=0, le=60, description="How far clocks may differ, in seconds")
    refresh_s: Seconds = Field(300.0, description="Its keys are fetched again this often")
    refetch_s: Seconds = Field(
        30.0, description="A key that is not known yet is asked for at most this often"
    )
    claims: ClaimSpec = Field(ClaimSpec(), description="What becomes of its claims")
    grants: tuple[RoleGrantSpec, ...] = Field((), description="Roles for groups")
    default_roles: tuple[RoleName, ...] = Field(
        (), description="Roles of everybody whom it vouches for; without any role nothing may be done"
    )
    login: LoginSpec | None = Field(None, description="How people sign in at it; default: they cannot")

    @model_validator(mode="before")
    @classmethod
    def _of_a_cluster(cls, said: Any) -> Any:
        """What the claims of a pod's token mean is the same everywhere."""
        if not isinstance(said, dict) or said.get("token") != "service_account" or "claims" in said:
            return said
        return {
            **said,
            "claims": {
                "tenant": '"kubernetes.io".namespace',
                "user": "sub",
                "app": '"kubernetes.io".serviceaccount.name',
                "groups": "[join(':', ['system:serviceaccounts', \"kubernetes.io\".namespace])]",
            },
        }

    @field_validator("issuer")
    @classmethod
    def _an_address(cls, issuer: str) -> str:
        if any(letter.isspace() for letter in issuer):
            raise ValueError("holds a space")
        return issuer

    @model_validator(mode="after")
    def _keys_can_be_had(self) -> IssuerSpec:
        import re

        if not (self.jwks_file or self.jwks_url or self.discovery_url or re.match(_HTTPS, self.issuer)):
            raise ValueError("keys cannot be fetched from this issuer: say jwks_url or jwks_file")
        return self


class CertificateSpec(Part):
    """Client certificates that stand for a caller. The first entry whose `when` holds counts.

    Expressions see `subject` and `issuer` (`subject.CN`, `subject.O`), `dns`, `uri`, `email`, `ip` (lists of the
    certificate's names) and `serial`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")] = Field(
        description="How it is called in records", examples=["mesh"]
    )
    when: Expression = Field(
        description="Which certificates are meant", examples=["uri[?starts_with(@, 'spiffe://acme/')] | [0]"]
    )
    tenant: Expression = Field("'default'", description="Who pays")
    user: Expression = Field("subject.CN || uri[0] || dns[0]", description="Whose call it is")
    app: Expression = Field("''", description="Which application calls")
    roles: tuple[RoleName, ...] = Field(("service",), description="The roles of such callers")


class RoleSpec(Part):
    """A role of your own."""

    name: RoleName = Field(
        description="How it is called; not one that exists already", examples=["team-lead"]
    )
    extends: tuple[RoleName, ...] = Field((), description="It may do all that these may")
    allow: tuple[Right, ...] = Field((), description="What else it may do", examples=[["usage.all"]])


class IdentitySpec(Part):
    """Who may call besides holders of an API key, and what each role may do."""

    issuers: tuple[IssuerSpec, ...] = Field((), description="Whose signed tokens (JWT) are believed")
    certificates: tuple[CertificateSpec, ...] = Field(
        (), description="Client certificates (of `gateway.tls.client_ca`) that stand for a caller"
    )
    roles: tuple[RoleSpec, ...] = Field((), description="Roles besides the six that exist")
    password_days: int = Field(
        90, ge=1, le=3650, description="The break-glass password must be changed after so many days"
    )
    session_s: Seconds = Field(28_800.0, description="A sign-in at the admin port holds for so long")

    @model_validator(mode="after")
    def _names_differ(self) -> IdentitySpec:
        for what, names in (
            ("issuers", [one.name for one in self.issuers]),
            ("certificates", [one.name for one in self.certificates]),
            ("roles", [one.name for one in self.roles]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} have the same name: names must differ")
        return self

    @model_validator(mode="after")
    def _roles_exist(self) -> IdentitySpec:
        known = list(ROLES)
        for role in self.roles:
            if role.name in known:
                raise ValueError(f"the role {role.name} exists already: give yours another name")
            _each_known(f"roles: {role.name} extends", role.extends, known)
            known.append(role.name)
        for issuer in self.issuers:
            granted = (*issuer.default_roles, *(grant.role for grant in issuer.grants))
            _each_known(f"issuers: {issuer.name} grants", granted, known)
        for certificate in self.certificates:
            _each_known(f"certificates: {certificate.name} grants", certificate.roles, known)
        return self


def _each_known(what: str, names: tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name}, which is no role; there are: {', '.join(known)}")
