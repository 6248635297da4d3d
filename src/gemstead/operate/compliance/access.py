"""Who may do what here: keys, what the file believes besides them, people who called, and the break-glass password.

One row for each way in, with the roles that it gives, what these may do, when it was last used, and what a reviewer
should look at. Whether somebody ought to have it is for people to say.
"""

from __future__ import annotations

from typing import Any

from gemstead.ledger.key import Key
from gemstead.operate.compliance.evidence import Evidence
from gemstead.operate.compliance.judge import STALE_DAYS, is_stale
from gemstead.spec.identity import CertificateSpec, IssuerSpec
from gemstead.traffic.roles import Roles

UNUSED = f"unused for {STALE_DAYS} days"
ALL = "may do everything"


def rows_of(evidence: Evidence) -> list[dict[str, Any]]:
    """Every way in: `kind` is key, issuer, group, certificate, caller or password. Times in Unix seconds."""
    identity = evidence.spec.identity
    roles = Roles({one.name: (one.extends, one.allow) for one in identity.roles})
    rows = [
        _key(key, evidence.now) for key in evidence.keys if key.state(evidence.now) in ("active", "retiring")
    ]
    for issuer in identity.issuers:
        rows += _issuer(issuer)
    rows += [_certificate(one) for one in identity.certificates]
    rows += _callers(evidence)
    if evidence.password:
        rows.append(_row("password", "admin.password", roles="admin", notice=f"break-glass; {ALL}"))
    for row in rows:
        row["may"] = sorted(roles.rights(tuple(row["roles"].split(",")))) if row["roles"] else []
    return rows


def _row(kind: str, who: str, **more: Any) -> dict[str, Any]:
    blank = {"tenant": "", "user": "", "app": "", "roles": "", "state": "active"}
    times = {"created": None, "expires": None, "last_used": None}
    return {"kind": kind, "key_id": who, **blank, **times, "notice": "", **more}


def _key(key: Key, now: float) -> dict[str, Any]:
    said = [UNUSED] if is_stale(key.created, key.last_used, now) else []
    if key.expires is None:
        said.append("never expires")
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


def _issuer(issuer: IssuerSpec) -> list[dict[str, Any]]:
    """Whoever it signs in, then each of its groups."""
    claimed = issuer.claims.roles
    notice = f"and the roles in its claim `{claimed}`" if claimed else ""
    rows = [_row("issuer", issuer.name, roles=",".join(issuer.default_roles), notice=notice)]
    if "admin" in issuer.default_roles:
        rows[0]["notice"] = f"everybody whom it signs in {ALL}"
    for grant in issuer.grants:
        notice = ALL if grant.role == "admin" else ""
        rows.append(_row("group", f"{issuer.name}:{grant.group}", roles=grant.role, notice=notice))
    return rows


def _certificate(one: CertificateSpec) -> dict[str, Any]:
    notice = ALL if "admin" in one.roles else ""
    return _row("certificate", one.name, roles=",".join(one.roles), notice=notice)


def _callers(evidence: Evidence) -> list[dict[str, Any]]:
    """Who has called by a token or certificate. What they may do is said by these, so no roles are known here."""
    rows = []
    for seen in evidence.callers:
        issuer, _, subject = seen.who.partition(":")
        said = [UNUSED] if is_stale(seen.last, seen.last, evidence.now) else []
        names = {(by, name) for by in (issuer, "*") for name in (subject, seen.user)}
        if not names.isdisjoint(evidence.denied):
            said.append("denied here")
        rows.append(
            _row(
                "caller",
                seen.who,
                tenant=seen.tenant,
                user=seen.user,
                last_used=seen.last,
                notice="; ".join(said),
            )
        )
    return rows
