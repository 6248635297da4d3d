"""Audit records in the words of others: OCSF 1.8.0 and the Elastic Common Schema. Values in, values out.

OCSF (https://schema.ocsf.io/1.8.0): a call is API Activity (6003) with the profile `ai_operation`, a login is
Authentication (3002), any other act is Entity Management (3004). `metadata.sequence` is the place in our chain, and
by `metadata.uid` a receiver knows a record that comes twice. What has no field there is in `unmapped`.

ECS 9 (https://www.elastic.co/docs/reference/ecs): what has no field there is under `gemstead`.

Neither form has content; prompts are there as keyed hashes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from gemstead import __version__
from gemstead.ledger.audit import SEEN, Act, AuditRecord

OCSF_VERSION, ECS_VERSION = "1.8.0", "9.0.0"
_OK, _FAILED, _OTHER = 1, 2, 99
_INFO, _LOW, _HIGH = 1, 2, 4  # severity_id
_PRODUCT = {"name": "Gemstead", "vendor_name": "Gemstead", "version": __version__}
_ADDRESS = re.compile(r"^[0-9.]+$|^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$")
# OCSF 3004 activity_id by the verb of an action
_MANAGING = {
    "create": 1,
    "show": 2,
    "change": 3,
    "revoke": 4,
    "delete": 4,
    "enable": 8,
    "disable": 9,
}
_ECS_TYPES = {
    "create": "creation",
    "revoke": "deletion",
    "delete": "deletion",
    "prune": "deletion",
    "change": "change",
}


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """A record on its way: its place, its chain, and one of the two kinds."""

    chain: str
    seq: int
    link: str  # hex
    record: AuditRecord | Act

    @property
    def uid(self) -> str:
        """By which a receiver knows a record again, unique over all gateways."""
        return f"{self.chain}-{self.seq}"

    @property
    def at(self) -> float:
        """Unix seconds at which it happened."""
        return self.record.began if isinstance(self.record, AuditRecord) else self.record.at


def shaped(one: Shipped, form: str) -> dict[str, Any]:
    """The record as an OCSF or ECS event."""
    return FORMS[form](one)


def ocsf(one: Shipped) -> dict[str, Any]:
    """The record as an OCSF 1.8.0 event."""
    if isinstance(one.record, AuditRecord):
        return _ocsf_call(one, one.record)
    return _ocsf_act(one, one.record)


def _ocsf_call(one: Shipped, call: AuditRecord) -> dict[str, Any]:
    served = call.outcome == "served"
    return _filled(
        {
            **_ocsf_base(one, 6003, 2, "API Activity", call.tenant, ["ai_operation"]),
            "severity_id": _INFO if served else _LOW,
            "status_id": _OK if served else _FAILED,
            "status_code": call.outcome,
            "status_detail": call.reason,
            "duration": round(call.seconds * 1000),
            "start_time": _ms(call.began),
            "end_time": _ms(call.began + call.seconds),
            "actor": {
                "app_name": call.app,
                "user": {"name": call.user, "credential_uid": call.key_id, "org": {"name": call.tenant}},
            },
            "api": {
                "operation": call.route or "unknown",
                "request": {"uid": call.call_id},
                "response": {"code": call.status},
                "service": {"name": "gemstead"},
            },
            "src_endpoint": _endpoint(call.client) or {"name": "unknown"},
            "dst_endpoint": {"svc_name": call.endpoint},
            "http_response": {"code": call.status, "body_length": call.bytes_out} if call.status else {},
            "ai_model": {
                "ai_provider": "Google",
                "name": call.pool or call.model or "unknown",
                "version": call.version,
            },
            "message_context": {
                "prompt_tokens": call.prompt_tokens,
                "completion_tokens": call.output_tokens,
                "total_tokens": call.prompt_tokens + call.output_tokens,
            },
            "unmapped": _rest(one, call, _TOLD_OF_CALLS),
        }
    )


def _ocsf_act(one: Shipped, act: Act) -> dict[str, Any]:
    noun, _, verb = act.action.partition(".")
    done = act.outcome == "done"
    common: dict[str, Any] = {
        "severity_id": _INFO if done else _LOW if act.outcome == "refused" else _HIGH,
        "status_id": _OK if done else _FAILED,
        "status_code": act.outcome,
        "message": act.action,
        "actor": {"user": {"name": act.actor}, "app_name": "gemstead"},
        "src_endpoint": _endpoint(act.client),
        "unmapped": _rest(one, act, ()),
    }
    if activity := _authenticating(act.action):
        base = _ocsf_base(one, 3002, activity, "Authentication", act.tenant)
        who = act.target if act.action == SEEN else act.actor
        named = {"activity_name": act.action} if activity == _OTHER else {}
        return _filled({**base, **common, **named, "user": {"name": who}, "service": {"name": "gemstead"}})
    base = _ocsf_base(one, 3004, _MANAGING.get(verb, 99), "Entity Management", act.tenant)
    if "src_endpoint" in common:
        common["unmapped"]["client"] = act.client
    entity = {"name": act.target or noun, "type": noun, "type_id": 99}
    return _filled({**base, **common, "activity_name": act.action, "entity": entity})


def _authenticating(action: str) -> int:
    """OCSF 3002's activity_id of an action; 0: it authenticates nobody."""
    if action == SEEN:
        return _OTHER
    return {"login": 1, "logout": 2}.get(action.removeprefix("admin.").partition(".")[0], 0)


def _ocsf_base(
    one: Shipped, class_uid: int, activity_id: int, class_name: str, tenant: str, profiles: Any = ()
) -> dict[str, Any]:
    return {
        "class_uid": class_uid,
        "class_name": class_name,
        "category_uid": class_uid // 1000,
        "activity_id": activity_id,
        "type_uid": class_uid * 100 + activity_id,
        "time": _ms(one.at),
        "metadata": {
            "version": OCSF_VERSION,
            "product": _PRODUCT,
            "uid": one.uid,
            "sequence": one.seq,
            "tenant_uid": tenant,
            "log_name": "gemstead-audit",
            "profiles": list(profiles),
        },
    }


def ecs(one: Shipped) -> dict[str, Any]:
    """The record as an event of the Elastic Common Schema."""
    if isinstance(one.record, AuditRecord):
        return _ecs_call(one, one.record)
    return _ecs_act(one, one.record)


def _ecs_call(one: Shipped, call: AuditRecord) -> dict[str, Any]:
    return _filled(
        {
            **_ecs_base(one),
            "event": {
                "id": one.uid,
                "sequence": one.seq,
                "kind": "event",
                "category": ["api"],
                "type": ["access"]
                if call.outcome == "served"
                else ["denied"]
                if 400 <= call.status < 500
                else ["info"],
                "action": "call",
                "outcome": "success" if call.outcome == "served" else "failure",
                "reason": call.reason or call.outcome,
                "duration": round(call.seconds * 1e9),
                "start": _iso(call.began),
                "end": _iso(call.began + call.seconds),
                "dataset": "gemstead.audit",
                "module": "gemstead",
            },
            "user": {"name": call.user, "id": call.key_id},
            "organization": {"name": call.tenant},
            "source": _ecs_source(call.client),
            "url": {"path": call.route},
            "http": {
                "request": {"id": call.call_id, "body": {"bytes": call.bytes_in}},
                "response": {"status_code": call.status, "body": {"bytes": call.bytes_out}},
            },
            "gemstead": _rest(one, call, ()),
        }
    )


def _ecs_act(one: Shipped, act: Act) -> dict[str, Any]:
    verb = act.action.partition(".")[2]
    session = _authenticating(act.action)
    kind = {1: "start", 2: "end", _OTHER: "info"}.get(session) or _ECS_TYPES.get(verb, "info")
    return _filled(
        {
            **_ecs_base(one),
            "event": {
                "id": one.uid,
                "sequence": one.seq,
                "kind": "event",
                "category": ["authentication"] if session else ["configuration"],
                "type": [kind],
                "action": act.action,
                "outcome": "success" if act.outcome == "done" else "failure",
                "dataset": "gemstead.audit",
                "module": "gemstead",
            },
            "user": {"name": act.actor, "roles": [act.role] if act.role else []},
            "organization": {"name": act.tenant},
            "source": _ecs_source(act.client),
            "gemstead": _rest(one, act, ()),
        }
    )


def _ecs_base(one: Shipped) -> dict[str, Any]:
    return {
        "@timestamp": _iso(one.at),
        "ecs": {"version": ECS_VERSION},
        "service": {"name": "gemstead", "type": "gemstead", "version": __version__},
    }


FORMS = {"ocsf": ocsf, "ecs": ecs}
_TOLD_OF_CALLS = ("began", "tenant", "app", "user", "key_id", "prompt_tokens", "output_tokens", "outcome", "reason",
                  "status", "call_id", "bytes_out", "seconds", "route")  # fmt: skip


def _rest(one: Shipped, record: AuditRecord | Act, told: tuple[str, ...]) -> dict[str, Any]:
    """The fields that have no place in the form, and the place in our chain."""
    fields = {name: value for name, value in msgspec.to_builtins(record).items() if name not in told}
    return {**fields, "chain": one.chain, "seq": one.seq, "link": one.link}


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    filled = {name: _filled(part) if isinstance(part, dict) else part for name, part in value.items()}
    return {name: part for name, part in filled.items() if part not in ("", None, {}, [])}


def _endpoint(client: str) -> dict[str, Any]:
    address, port = _split(client)
    if not _ADDRESS.match(address):
        return {"name": client} if client else {}
    return {"ip": address, **({"port": port} if port else {})}


def _ecs_source(client: str) -> dict[str, Any]:
    address, port = _split(client)
    return {"address": client, "ip": address if _ADDRESS.match(address) else "", "port": port or None}


def _split(client: str) -> tuple[str, int]:
    """Address and port of a peer, as the gateway writes it: `10.0.0.7`, `10.0.0.7:5000`, `[::1]:5000` or `::1`."""
    host, _, port = client.rpartition(":")
    if host and port.isdigit() and (host.startswith("[") or ":" not in host):
        return host.strip("[]"), int(port)
    return client.strip("[]"), 0


def _ms(at: float) -> int:
    return round(at * 1000)


def _iso(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00.000Z"  # a clock that was out of its mind
