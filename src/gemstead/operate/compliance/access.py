"""Who may do what here: keys, what the file believes besides them, people who came, and the break-glass password.

One row for each way in, with the roles that it gives, what these may do, when it was last used, and what a reviewer
should look at. Whether somebody ought to have it is for people to say.

Of a person who comes by a token or certificate we know what the log knows: when they called, and which roles the
file's expressions gave them when they were last verified, by which of their groups (`identity.seen`). What the provider
says of them today is known to the provider alone. Of an issuer, a group and a kind of certificate the last use is that
of the people who were noted with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gemstead.ledger.key import Key
from gemstead.ledger.log import Seen
from gemstead.operate.compliance.evidence import Evidence
from gemstead.operate.compliance.judge import STALE_DAYS, is_stale
from gemstead.spec.identity import CertificateSpec, IssuerSpec
from gemstead.traffic.roles import Roles

UNUSED = f"unused for {STALE_DAYS} days"
ALL = "may do everything"
GONE = "gone"  # the file does not believe their issuer any more
UNKNOWN = "its roles are not in the log"


def rows_of(evidence: Evidence) -> list[dict[str, Any]]:
    """Every way in: `kind` is key, issuer, group, certificate, caller or password. Times in Unix seconds."""
    identity = evidence.spec.identity
    roles = Roles({one.name: (one.extends, one.allow) for one in identity.roles})
    rows = [
        _key(key, roles, evidence.now)
        for key in evidence.keys
        if key.state(evidence.now) in ("active", "retiring")
    ]
    for issuer in identity.issuers:
        rows += _issuer(issuer, evidence)
    rows += [_certificate(one, evidence) for one in identity.certificates]
    rows += [_caller(seen, evidence, roles) for seen in evidence.callers]
    if evidence.password is not None:
        set_at, used = evidence.password, evidence.password_used
        notice = f"break-glass; {ALL}"
        rows.append(
            _row("password", "admin.password", roles="admin", created=set_at, last_used=used, notice=notice)
        )
    for row in rows:
        held = tuple(row["roles"].split(",")) if row["roles"] and row["state"] != GONE else ()
        row["may"] = sorted(roles.rights(held))
    return rows


def _row(kind: str, who: str, **more: Any) -> dict[str, Any]:
    blank = {"tenant": "", "user": "", "app": "", "roles": "", "state": "active"}
    times = {"created": None, "expires": None, "last_used": None}
    known: dict[str, Any] = {"noted": None, "groups": []}
    return {"kind": kind, "key_id": who, **blank, **times, "notice": "", **known, **more}


def _key(key: Key, roles: Roles, now: float) -> dict[str, Any]:
    said = [UNUSED] if is_stale(key.created, key.last_used, now) else []
    if key.expires is None:
        said.append("never expires")
    said += _none(key.roles, roles)
    if "admin" in key.roles:
        said.append(ALL)
    return _row(
        "key",
        key.key_id,
        tenant=key.tenant,
        user=key.user,
        app=key.app,
        roles=",".join(key.roles),
        state=key.state(now),
        created=key.created,
        expires=key.expires,
        last_used=key.last_used,
        notice="; ".join(said),
    )


def _issuer(issuer: IssuerSpec, evidence: Evidence) -> list[dict[str, Any]]:
    """Whoever it signs in, then each of its groups."""
    came = [seen for seen in evidence.callers if seen.who.startswith(f"{issuer.name}:")]
    claimed = issuer.claims.roles
    said = [f"and the roles in its claim `{claimed}`"] if claimed else []
    if "admin" in issuer.default_roles:
        said.append(f"everybody whom it signs in {ALL}")
    rows = [_named("issuer", issuer.name, ",".join(issuer.default_roles), came, said, evidence)]
    for grant in issuer.grants:
        said = [ALL] if grant.role == "admin" else []
        of_it = [seen for seen in came if grant.group in seen.groups]
        rows.append(_named("group", f"{issuer.name}:{grant.group}", grant.role, of_it, said, evidence))
    return rows


def _certificate(one: CertificateSpec, evidence: Evidence) -> dict[str, Any]:
    came = [seen for seen in evidence.callers if seen.who.startswith(f"{one.name}:")]
    said = [ALL] if "admin" in one.roles else []
    return _named("certificate", one.name, ",".join(one.roles), came, said, evidence)


def _named(
    kind: str, who: str, roles: str, came: Iterable[Seen], said: list[str], evidence: Evidence
) -> dict[str, Any]:
    """A way in that the file names, with when somebody last came by it."""
    used = max((_last(seen) for seen in came), default=None)
    if used is not None and is_stale(used, used, evidence.now):
        said = [*said, UNUSED]
    return _row(kind, who, roles=roles, last_used=used, notice="; ".join(said))


def _caller(seen: Seen, evidence: Evidence, roles: Roles) -> dict[str, Any]:
    """Somebody who came by a token or certificate, with the roles that they had when they were noted last."""
    issuer, _, subject = seen.who.partition(":")
    last = _last(seen)
    said = [UNUSED] if is_stale(last, last, evidence.now) else []
    if seen.noted is None:
        said.append(UNKNOWN)
    said += _none(seen.roles, roles)
    identity, state = evidence.spec.identity, "active"
    if issuer not in {one.name for one in identity.issuers} | {one.name for one in identity.certificates}:
        state = GONE
        said.append(f"`{issuer}` is not in the file any more")
    elif "admin" in seen.roles:
        said.append(ALL)
    names = {(by, name) for by in (issuer, "*") for name in (subject, seen.user)}
    if not names.isdisjoint(evidence.denied):
        said.append("denied here")
    return _row(
        "caller",
        seen.who,
        tenant=seen.tenant,
        user=seen.user,
        roles=",".join(seen.roles),
        state=state,
        last_used=last,
        notice="; ".join(said),
        noted=seen.noted,
        groups=list(seen.groups),
    )


def _none(held: Iterable[str], roles: Roles) -> list[str]:
    """What is to be said of roles that the file does not know any more."""
    return [f"`{role}` is no role any more" for role in held if role not in roles.by_name]


def _last(seen: Seen) -> float:
    """When somebody came last: to call, or to be verified (at the admin port too)."""
    return max(seen.last or 0.0, seen.noted or 0.0)
