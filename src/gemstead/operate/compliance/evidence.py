"""What this installation can show: read from its file and its ledger, changing neither."""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.key import Key
from gemstead.ledger.keys import KeyStore
from gemstead.ledger.log import AuditLog, Facts
from gemstead.spec.model import Spec
from gemstead.spec.secrets import references

REVIEWED, DRILLED = "access.review", "restore.drill"


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


def gather(spec: Spec, keys: KeyStore, audit: AuditLog, now: float) -> Evidence:
    """The evidence of the installation with these keys and this audit log."""
    trouble: list[str] = []
    found: tuple[Key, ...] = ()
    facts = Facts()
    try:
        found = tuple(keys.list())
    except LedgerTrouble as error:
        trouble.append(str(error))
    try:
        facts = audit.facts()
    except LedgerTrouble as error:
        trouble.append(str(error))
    values = (facts.calls, facts.first, facts.signed, facts.acts.get(REVIEWED), facts.acts.get(DRILLED))
    return Evidence(spec, now, found, *values, len(list(references(spec))), tuple(trouble))
