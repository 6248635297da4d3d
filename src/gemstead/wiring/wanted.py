"""What should run, as values, and what changes between two of them. Nothing here starts or stops anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemstead.gateway.settings import GatewaySettings
from gemstead.supervise.replica import Watched


@dataclass(frozen=True, slots=True)
class Seat:
    """An endpoint that is wanted. Equal `same` means that nothing about it has changed."""

    name: str
    same: object
    start: Callable[[str], Watched]  # given its name; nothing runs before `run`


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should run. Made from a Spec by `wiring/desired.py`."""

    settings: GatewaySettings  # its endpoints are filled in by the head
    seats: tuple[Seat, ...]
    notes: tuple[str, ...] = ()
    admin: str = ""  # the admin port's address, to notice that it was changed


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload does to the seats."""

    added: tuple[Seat, ...]
    replaced: tuple[Seat, ...]  # as they shall be
    removed: frozenset[str]  # by name


def compare(now: Mapping[str, Seat], wanted: tuple[Seat, ...]) -> Change:
    """How the seats of now, by name, become the wanted ones."""
    return Change(
        added=tuple(seat for seat in wanted if seat.name not in now),
        replaced=tuple(seat for seat in wanted if seat.name in now and now[seat.name].same != seat.same),
        removed=frozenset(now) - {seat.name for seat in wanted},
    )


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
    return found


def next_name(name: str) -> str:
    """`a`, `a~2`, `a~3`: two engines in the same seat at the same time have two names."""
    stem, _, number = name.partition("~")
    return f"{stem}~{int(number or 1) + 1}"
