"""The file's `traffic.sharing` as gateway workers are told it."""

from __future__ import annotations

from collections.abc import Mapping

from gemstead.gateway.settings import Sharing
from gemstead.operate.secrets.keeper import Keeper
from gemstead.spec.sharing import SharingSpec
from gemstead.wiring.extras import need
from gemstead.wiring.secrets import CannotRun, resolved

STORES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")
LEAST = 32  # characters of the secret


def sharing(
    spec: SharingSpec | None,
    environ: Mapping[str, str],
    keeper: Keeper | None,
    where: str = "traffic.sharing",
) -> Sharing | None:
    """Where gateways meet and what seals their words; None: they do not. `where` is the section's path, for errors.

    Raises:
        CannotRun: a reference cannot be followed, it is no URL of such a store, the package that speaks to it is not
            installed, or the secret is too short.
    """
    if spec is None:
        return None
    store = resolved(spec.store, environ, f"{where}.store", keeper)
    if not store.startswith(STORES):
        raise CannotRun(
            f"{where}.store: what it refers to is no URL of a store: write redis://, rediss://, unix:// or valkey://"
        )
    secret = resolved(spec.secret, environ, f"{where}.secret", keeper)
    need(("redis",), "shared", "traffic.sharing.store")
    if len(secret) < LEAST:
        raise CannotRun(
            f"{where}.secret: what it refers to has {len(secret)} characters, and needs {LEAST}: "
            "`openssl rand -hex 32` makes one"
        )
    return Sharing(store=store, secret=secret, heads_kib_s=spec.heads_kib_s)
