"""Each check by its name, and a report for a framework: what is set, what is open, what is left to people."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from gemstead.operate.compliance.evidence import Evidence
from gemstead.spec.checks import is_loopback

DAY_S = 86_400.0
STALE_DAYS, REVIEW_DAYS, DRILL_DAYS = 90, 92, 92
Found = tuple[bool, str]  # whether it is met, and what was seen


@dataclass(frozen=True, slots=True)
class Control:
    """One thing that a framework asks for."""

    framework: str
    id: str
    title: str
    does: str
    checks: tuple[str, ...]
    tests: tuple[str, ...]
    operator: str


@dataclass(frozen=True, slots=True)
class Line:
    """One control as this installation stands."""

    control: Control
    state: str  # "set", "open", or "yours": nothing here can be checked
    seen: tuple[tuple[str, bool, str], ...]  # check, whether it is met, what was seen


def frameworks() -> dict[str, dict[str, str]]:
    """Name and purpose of each framework."""
    found: dict[str, dict[str, str]] = _data()["frameworks"]
    return found


def controls(framework: str = "") -> list[Control]:
    """What the framework asks for; all of them for ""."""
    made = [
        Control(**{**one, "checks": tuple(one["checks"]), "tests": tuple(one["tests"])})
        for one in _data()["control"]
    ]
    return [one for one in made if framework in ("", one.framework)]


def judged(framework: str, evidence: Evidence) -> list[Line]:
    """Every control of the framework with what was seen for it."""
    lines = []
    for control in controls(framework):
        seen = tuple((name, *CHECKS[name](evidence)) for name in control.checks)
        state = "yours" if not seen else "set" if all(met for _, met, _ in seen) else "open"
        lines.append(Line(control, state, seen))
    return lines


def as_json(lines: list[Line]) -> list[dict[str, Any]]:
    """The same as JSON can say it."""
    return [
        {**asdict(line.control), "state": line.state}
        | {"evidence": [dict(zip(("check", "met", "seen"), seen, strict=True)) for seen in line.seen]}
        for line in lines
    ]


def _data() -> dict[str, Any]:
    text = files("gemstead.operate.compliance").joinpath("controls.toml").read_text("utf-8")
    return tomllib.loads(text)


def _keys_required(e: Evidence) -> Found:
    return e.spec.gateway.keys == "required", f"gateway.keys: {e.spec.gateway.keys}"


def _admin_loopback(e: Evidence) -> Found:
    return _loopback(e.spec.admin.listen), f"admin.listen: {e.spec.admin.listen}"


def _tls(e: Evidence) -> Found:
    if e.spec.gateway.tls is not None:
        return True, "gateway.tls is set"
    here = _loopback(e.spec.gateway.listen)
    return here, f"no gateway.tls; gateway.listen: {e.spec.gateway.listen}" + (
        ", reached from this machine only" if here else ""
    )


def _engines_tls(e: Evidence) -> Found:
    plain = [url for url in _urls(e) if url.startswith("http:") and not is_loopback(_host(url))]
    return not plain, f"plain HTTP to {', '.join(plain)}" if plain else "no engine elsewhere by plain HTTP"


def _engines_here(e: Evidence) -> Found:
    far = sorted({_host(url) for url in _urls(e) if not is_loopback(_host(url))})
    return not far, f"engines elsewhere: {', '.join(far)}" if far else "every engine runs on this machine"


def _media_refused(e: Evidence) -> Found:
    how = e.spec.gateway.media
    return how != "engine", f"gateway.media: {how}"


def _limits_set(e: Evidence) -> Found:
    said = e.spec.limits.model_dump(exclude_none=True, exclude_defaults=True)
    return bool(said), f"limits: {', '.join(said)}" if said else "no default limit for keys (limits)"


def _active(e: Evidence) -> list[Any]:
    return [key for key in e.keys if key.state(e.now) in ("active", "retiring")]


def _keys_expire(e: Evidence) -> Found:
    active = _active(e)
    endless = sum(key.expires is None for key in active)
    oldest = max((int((e.now - key.created) / DAY_S) for key in active), default=0)
    return (
        not endless,
        f"{len(active)} active keys, {endless} without an end; the oldest is {oldest} days old",
    )


def _keys_in_use(e: Evidence) -> Found:
    stale = sum(is_stale(key.created, key.last_used, e.now) for key in _active(e))
    return not stale, f"{stale} active keys unused for {STALE_DAYS} days"


def _access_reviewed(e: Evidence) -> Found:
    return _lately(e.reviewed, e.now, REVIEW_DAYS, "access review", "gemstead access-review --record")


def _log_verified(e: Evidence) -> Found:
    return _lately(e.verified, e.now, REVIEW_DAYS, "verification of the log", "gemstead audit verify")


def _restore_drilled(e: Evidence) -> Found:
    return _lately(e.drilled, e.now, DRILL_DAYS, "restore drill", "gemstead restore --drill FILE")


def _identity_provider(e: Evidence) -> Found:
    names = [issuer.name for issuer in e.spec.identity.issuers]
    return bool(
        names
    ), f"identity.issuers: {', '.join(names)}" if names else "no identity provider: keys only"


def _secrets_referenced(e: Evidence) -> Found:
    return True, f"{e.secrets} secrets, all of them references (`gemstead secrets check` reads each)"


def _records_chained(e: Evidence) -> Found:
    if e.checkpoint is None:
        return False, f"{e.records} records, no signed checkpoint yet"
    hours = (e.now - e.checkpoint) / 3600
    return True, f"{e.records} records; last signed checkpoint {hours:.1f} h ago (`gemstead audit verify`)"


def _records_kept(e: Evidence) -> Found:
    return e.spec.ledger.on_error == "refuse", f"ledger.on_error: {e.spec.ledger.on_error}"


def _records_shipped(e: Evidence) -> Found:
    names = [sink.name for sink in e.spec.audit.ship]
    return bool(
        names
    ), f"audit.ship: {', '.join(names)}" if names else "records are sent nowhere (audit.ship)"


def _retention_set(e: Evidence) -> Found:
    days = [rule.keep_days for rule in e.spec.audit.retention]
    return bool(
        days
    ), f"audit.retention: {', '.join(map(str, days))} days" if days else "records are kept for ever"


def _kept(days: int) -> Callable[[Evidence], Found]:
    def check(e: Evidence) -> Found:
        shortest = min((rule.keep_days for rule in e.spec.audit.retention), default=None)
        said = "for ever" if shortest is None else f"{shortest} days at least"
        return shortest is None or shortest >= days, f"records are kept {said}"

    return check


CHECKS: dict[str, Callable[[Evidence], Found]] = {
    "keys_required": _keys_required,
    "admin_loopback": _admin_loopback,
    "tls": _tls,
    "engines_tls": _engines_tls,
    "engines_here": _engines_here,
    "media_refused": _media_refused,
    "limits_set": _limits_set,
    "keys_expire": _keys_expire,
    "keys_in_use": _keys_in_use,
    "access_reviewed": _access_reviewed,
    "restore_drilled": _restore_drilled,
    "identity_provider": _identity_provider,
    "secrets_referenced": _secrets_referenced,
    "records_chained": _records_chained,
    "log_verified": _log_verified,
    "records_kept": _records_kept,
    "records_shipped": _records_shipped,
    "retention_set": _retention_set,
    "kept_six_months": _kept(184),
    "kept_six_years": _kept(6 * 366),
}


def is_stale(created: float, last_used: float | None, now: float) -> bool:
    """Whether an access was not used for STALE_DAYS; one that is younger is not."""
    return now - max(created, last_used or 0.0) > STALE_DAYS * DAY_S


def _lately(when: float | None, now: float, days: int, what: str, verb: str) -> Found:
    if when is None:
        return False, f"no {what} is recorded" + (f" (`{verb}`)" if verb else "")
    ago = int((now - when) / DAY_S)
    return ago <= days, f"last {what} {ago} days ago"


def _urls(e: Evidence) -> list[str]:
    return [endpoint.url for model in e.spec.models for endpoint in model.endpoints]


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _loopback(listen: str) -> bool:
    return is_loopback(listen.rpartition(":")[0].strip("[]"))
