"""What this installation can show: read from its file and its ledger, changing neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemstead.ledger.audit import Act
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.key import Key
from gemstead.ledger.keys import KeyStore
from gemstead.ledger.log import AuditLog, Facts, Seen
from gemstead.ledger.search import Question
from gemstead.spec.model import Spec
from gemstead.spec.secrets import references

REVIEWED, DRILLED, VERIFIED = "access.review", "restore.drill", "audit.verify"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found. Times in Unix seconds; None: never, or it cannot be read."""

    spec: Spec
    now: float
    keys: tuple[Key, ...]
    records: int
    oldest: float | None
    checkpoint: float | None
    reviewed: float | None
    drilled: float | None
    secrets: int
    trouble: tuple[str, ...] = ()
    callers: tuple[Seen, ...] = ()  # by token or certificate
    denied: frozenset[tuple[str, str]] = frozenset()  # issuer ("*": any), and subject, token or serial number
    password: float | None = None  # when the one that breaks the glass was set; None: there is none
    password_used: float | None = None  # when somebody last signed in by it
    verified: float | None = None  # when the log was last verified, however it was found


def gather(
    spec: Spec, keys: KeyStore, audit: AuditLog, now: float, *, password: float | None = None
) -> Evidence:
    """The evidence of the installation with these keys, this audit log and perhaps a break-glass password.

    Args:
        password: when it was set; None: there is none.
    """
    trouble: list[str] = []
    found: tuple[Key, ...] = ()
    facts, callers, denied = Facts(), tuple[Seen, ...](), frozenset[tuple[str, str]]()
    used: float | None = None
    try:
        found = tuple(keys.list())
        denied = frozenset((one.issuer, one.value) for one in keys.denied())
    except LedgerTrouble as error:
        trouble.append(str(error))
    try:
        facts, callers = audit.facts(), tuple(audit.callers())
        used = _broken(audit, now) if password is not None else None
    except LedgerTrouble as error:
        trouble.append(str(error))
    values = (facts.calls, facts.first, facts.signed, facts.acts.get(REVIEWED), facts.acts.get(DRILLED))
    secrets = len(list(references(spec)))
    return Evidence(
        spec,
        now,
        found,
        *values,
        secrets,
        tuple(trouble),
        callers,
        denied,
        password,
        used,
        facts.acts.get(VERIFIED),
    )


def _broken(audit: AuditLog, now: float) -> float | None:
    """When somebody last signed in with the break-glass password."""
    asked = Question(
        since=0.0, until=now + 1.0, records="acts", most=1, action="admin.login", caller="break-glass"
    )
    found = audit.find(asked).records
    return found[0].record.at if found and isinstance(found[0].record, Act) else None


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What the act of a review says of the list that was reviewed."""
    keys, noticed = sum(row["kind"] == "key" for row in rows), sum(bool(row["notice"]) for row in rows)
    return {"keys": keys, "ways": len(rows), "noticed": noticed}
