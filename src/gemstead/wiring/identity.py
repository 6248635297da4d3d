"""Issuers' signing keys, fetched by the head and told to every worker; and the Spec's `identity` as plain values.

Keys are fetched when the service starts, every `refresh_s`, and when a worker meets a key id that it does not know, but
for that at most once in `refetch_s`, so that noise in key ids makes no storm. What cannot be fetched is tried again
with growing pauses while the old keys go on counting; it is said once. Nothing waits for any of this: until the first
keys are there, tokens of that issuer are told to try again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from gemstead.gateway.issuers import Certificate, Claims, Identity, Issuer, Signing
from gemstead.operate.oidc import Provider, ProviderTrouble, client, signing_keys
from gemstead.spec.identity import IdentitySpec, IssuerSpec
from gemstead.wiring.secrets import CannotRun, Resolve

FILE_S = 2.0  # a file of keys is looked at this often
FIRST_PAUSE_S = 1.0


def identity(spec: IdentitySpec) -> Identity:
    """What workers are told of who may call."""
    return Identity(
        issuers=tuple(_issuer(one) for one in spec.issuers),
        certificates=tuple(
            Certificate(
                name=one.name,
                when=one.when,
                claims=Claims(tenant=one.tenant, user=one.user, app=one.app, groups="", roles=""),
                roles=one.roles,
            )
            for one in spec.certificates
        ),
        roles={one.name: (one.extends, one.allow) for one in spec.roles},
    )


def _issuer(spec: IssuerSpec) -> Issuer:
    claims = spec.claims
    return Issuer(
        name=spec.name,
        issuer=spec.issuer,
        audience=spec.audience,
        kind=spec.token,
        strict=spec.strict,
        algorithms=spec.algorithms,
        leeway_s=spec.leeway_s,
        refetch_s=spec.refetch_s,
        claims=Claims(
            tenant=claims.tenant,
            user=claims.user,
            app=claims.app,
            groups=claims.groups,
            roles=claims.roles or "",
            models=claims.models or "",
        ),
        grants=tuple((grant.group, grant.role) for grant in spec.grants),
        default_roles=spec.default_roles,
    )


def providers(spec: IdentitySpec, secret: Resolve) -> tuple[Provider, ...]:
    """Where the issuers' keys are."""
    return tuple(provider(one, secret) for one in spec.issuers)


def provider(spec: IssuerSpec, secret: Resolve) -> Provider:
    """Where one issuer's keys are, and where people sign in at it."""
    where = f"identity.issuers ({spec.name}).bearer"
    return Provider(
        name=spec.name,
        issuer=spec.issuer,
        jwks_url=spec.jwks_url or "",
        jwks_file=spec.jwks_file or "",
        discovery_url=spec.discovery_url or "",
        ca=str(Path(spec.ca).expanduser()) if spec.ca else "",
        bearer=lambda: secret(spec.bearer, where),
        bearer_from=spec.bearer or "",
        refresh_s=spec.refresh_s,
        refetch_s=spec.refetch_s,
    )


class Keeper:
    """Keeps every issuer's keys fresh. Use from one event loop."""

    def __init__(self, tell: Callable[[dict[str, Signing]], None], trouble: Callable[[str], None]) -> None:
        """Args:
        tell: called with the keys of all issuers whenever there is news of one.
        trouble: told in one sentence when keys cannot be had, and when they can again.
        """
        self.signing: dict[str, Signing] = {}
        self.listeners = [tell]
        self._trouble = trouble
        self._providers: dict[str, Provider] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._asked_at: dict[str, float] = {}

    def configure(self, providers: tuple[Provider, ...]) -> None:
        """Keep the keys of these issuers, and of no others."""
        wanted = {one.name: one for one in providers}
        for name in [name for name, one in self._providers.items() if wanted.get(name) != one]:
            self._drop(name)
        for name, one in wanted.items():
            if name not in self._tasks:
                self._providers[name] = one
                self._asked[name] = asyncio.Event()
                self._tasks[name] = asyncio.create_task(self._keep(one), name=f"keys of {name}")

    def unknown_key(self, name: str) -> None:
        """A worker has met a key id that is not known: look now, or say that we have just looked."""
        if (one := self._providers.get(name)) is None:
            return
        now = time.monotonic()
        if now - self._asked_at.get(name, -1e9) >= one.refetch_s:
            self._asked_at[name] = now
            self._asked[name].set()
        elif name in self.signing and not self._asked[name].is_set():
            self._learned(name, "")

    def close(self) -> None:
        for name in list(self._tasks):
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._tasks.pop(name).cancel()
        for book in (self._providers, self._asked, self._asked_at, self.signing):
            book.pop(name, None)

    def _learned(self, name: str, jwks: str) -> None:
        """There has been a look at an issuer's keys; "": it brought none, and the old ones stay."""
        old = self.signing.get(name, Signing())
        self.signing[name] = Signing(jwks=jwks or old.jwks, attempt=old.attempt + 1)
        for tell in self.listeners:
            tell(dict(self.signing))

    async def _keep(self, one: Provider) -> None:
        failures = 0
        while True:
            self._asked[one.name].clear()
            try:
                jwks, why = await self._fetched(one), ""
            except (ProviderTrouble, CannotRun) as error:
                jwks, why = "", str(error)
            failures = failures + 1 if why else self._well(one, failures)
            if failures == 1:
                self._trouble(
                    f"the signing keys of {one.name} cannot be had{_until(self.signing, one)}: {why}"
                )
            self._learned(one.name, jwks)
            pause_s = FILE_S if one.jwks_file else one.refresh_s
            if failures:
                pause_s = min(pause_s, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))
            try:
                await asyncio.wait_for(self._asked[one.name].wait(), pause_s)
            except TimeoutError:
                pass

    async def _fetched(self, one: Provider) -> str:
        from gemstead.gateway.tokens import usable_keys

        async with client(one) as http:
            jwks = await signing_keys(one, http)
        try:
            found = usable_keys(jwks)
        except ValueError as error:
            raise ProviderTrouble(f"what {one.name} publishes as its keys is of no use: {error}") from None
        if not found:
            raise ProviderTrouble(f"{one.name} publishes no key that signs")
        return jwks

    def _well(self, one: Provider, failures: int) -> int:
        if failures:
            self._trouble(f"the signing keys of {one.name} are here again")
        return 0


def _until(signing: dict[str, Signing], one: Provider) -> str:
    old = signing.get(one.name)
    return " anew, the old ones go on counting" if old is not None and old.jwks else ""
