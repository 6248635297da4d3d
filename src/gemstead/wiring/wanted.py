"""What should run, as values, and what changes between two of them. Nothing here starts or stops anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gemstead.gateway.settings import GatewaySettings
from gemstead.operate.oidc import Provider
from gemstead.spec.autoscale import AutoscaleSpec
from gemstead.spec.rollout import RolloutSpec
from gemstead.supervise.watched import Watched


@dataclass(frozen=True, slots=True)
class Seat:
    """An endpoint that is wanted. Equal `same` means that nothing about it has changed."""

    name: str
    same: object
    start: Callable[[str], Watched]  # given its name; nothing runs before `run`
    pool: str = ""  # the model that it serves
    room: Callable[[], str] = lambda: ""  # why one more like it cannot run beside it now; "" when it can


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should run. Made from a Spec by `wiring/desired.py`."""

    settings: GatewaySettings  # its endpoints are filled in by the head
    seats: tuple[Seat, ...]
    notes: tuple[str, ...] = ()
    admin: str = ""  # the admin port's address, to notice that it was changed
    rollouts: Mapping[str, RolloutSpec] = field(default_factory=dict)  # by model; else the defaults
    autoscale: Mapping[str, AutoscaleSpec] = field(default_factory=dict)  # by model; else replicas stay
    providers: tuple[Provider, ...] = ()  # whose signing keys are to be kept
    file: str = ""  # where it was read; empty: nowhere, all is as by default


def needs_restart(old: Wanted, new: Wanted) -> list[str]:
    """Settings that a reload cannot change, as sentences."""
    found = []
    before, after = old.settings, new.settings
    if after.port and (before.host, before.port) != (after.host, after.port):
        found.append(f"gateway.listen: still {before.host}:{before.port} until the service is restarted")
    if old.admin != new.admin:
        found.append(f"admin.listen: still {old.admin} until the service is restarted")
    if before.tls != after.tls:
        found.append("gateway.tls: the present certificates stay until the service is restarted")
    if (before.keys_path, before.ledger_path) != (after.keys_path, after.ledger_path):
        found.append("ledger.path: the present ledger stays until the service is restarted")
    if before.sharing != after.sharing:
        found.append("traffic.sharing: gateways share as before until the service is restarted")
    return found
