"""From what a person asks for to the rights of a key: roles and models by the names that the file knows.

A role that is none here would let nobody do anything, and a model that is none would be called by nobody: so both are
refused while somebody looks on. The command line and the admin port make keys by these words alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from gemstead.catalog import names
from gemstead.catalog.check import facts_of
from gemstead.ledger.database import LedgerTrouble
from gemstead.refused import Refused
from gemstead.spec.model import Spec
from gemstead.traffic.caller import RateLimit
from gemstead.traffic.roles import Roles


class Unfit(LedgerTrouble):
    """What was asked for means nothing here. A sentence for whoever asked."""


def roles_of(spec: Spec) -> Roles:
    """The roles that hold in a file."""
    return Roles({one.name: (one.extends, one.allow) for one in spec.identity.roles})


def checked_roles(said: Iterable[str], spec: Spec) -> tuple[str, ...]:
    """The roles of these names, each once.

    Raises:
        Unfit: there is no such role, or none was named.
    """
    known, found = roles_of(spec).by_name, tuple(dict.fromkeys(said))
    for name in found:
        if name not in known:
            raise Unfit(f"there is no such role as {name!r}; there are {', '.join(known)}")
    if not found:
        raise Unfit("a key without a role may do nothing: name one, such as `service`")
    return found


def pool_of(name: str, spec: Spec) -> str:
    """The pool that a model's name means here.

    Raises:
        Unfit: the file has no such model.
    """
    try:
        meant = names.canonical(name)
    except Refused:
        meant = name
    pools = []
    for model in spec.models:
        facts = facts_of(model)
        pool = facts.name if facts else model.name
        if name in (model.name, *model.aliases) or meant == pool:
            return pool
        pools.append(pool)
    raise Unfit(f"this file has no model {name!r}; it has {', '.join(pools) or 'none'}")


def limit_of(
    requests_per_minute: int | None, tokens_per_minute: int | None, concurrent: int | None, *, unlimited: bool
) -> RateLimit | None:
    """A key's own limits; None: those of the file.

    Raises:
        Unfit: some are named and none shall hold.
    """
    given = RateLimit(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrent=concurrent
    )
    if given == RateLimit():
        return given if unlimited else None
    if unlimited:
        raise Unfit("no limit at all goes with none of requests and tokens per minute and calls at once")
    return given
