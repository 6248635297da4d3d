"""What the admin API's routes take, as types: the fields of their bodies and queries, with bounds.

One table each, by method and route. From them requests are read (`asked.py`) and the API is described (`api.py`), so
neither can say anything else. A field that is not here is refused. Moments are Unix seconds or ISO 8601 (UTC where no
zone is said).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gemstead.ledger.chain import Checkpoint

Name = Annotated[str, Meta(max_length=512)]
Moment = Annotated[str | float, Meta(description="Unix seconds, or ISO 8601 such as 2026-11-21T12:00")]
Many = Annotated[int, Meta(ge=1, le=1000)]
Count = Annotated[int, Meta(ge=1, le=2**53 - 1)]


class Form(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Some fields. What is not sent has its default."""


class Nothing(Form):
    """No fields."""


class OwnKey(Form):
    """A key of one's own."""

    days: Annotated[int, Meta(ge=1, le=365)] = 90
    app: Name = ""


class KeyFilter(Form):
    """Which keys; all of them without any of these."""

    tenant: Name | None = None
    user: Name | None = None
    state: Literal["active", "retiring", "expired", "revoked"] | None = None
    limit: Many = 1000
    after: Annotated[Name, Meta(description="`next` of the page before")] = ""


class KeysOf(Form):
    """Whose keys: those that fit all that is said. Something must be said."""

    tenant: Name | None = None
    user: Name | None = None
    app: Name | None = None


class NewKey(Form):
    """The rights of a new key. Without limits of its own those of the file hold."""

    tenant: Name = "default"
    app: Name = ""
    user: Name = ""
    roles: Annotated[tuple[Name, ...], Meta(max_length=64)] = ("service",)
    models: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=256)] | None = None
    networks: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()
    expires: Moment | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None
    unlimited: bool = False
    note: Name = ""


class Rotation(Form):
    """How a key is replaced."""

    overlap_s: Annotated[
        float, Meta(ge=0, le=31_536_000, description="the old key works this much longer")
    ] = 3600.0


class NewDenial(Form):
    """What is to be refused though it is signed and valid."""

    kind: Literal["token", "subject"]
    value: Annotated[Name, Meta(min_length=1, description="a `jti` or serial number; a `sub` or a user")]
    issuer: Annotated[Name, Meta(min_length=1, description="its name in the file; * for any")] = "*"
    forever: Annotated[bool, Meta(description="of a subject: also what is issued from now on")] = False
    for_s: Annotated[
        Annotated[float, Meta(gt=0, le=3_153_600_000)] | None,
        Meta(description="of a token: forget it after so many seconds"),
    ] = None
    keys: Annotated[bool, Meta(description="of a subject: revoke the keys that it has made, too")] = False
    note: Name = ""


class OneDenial(Form):
    """Which denial."""

    kind: Literal["token", "subject"]
    value: Annotated[Name, Meta(min_length=1)]
    issuer: Name = "*"


class Span(Form):
    """A time; the last 24 hours where nothing is said."""

    since: Moment | None = None
    until: Moment | None = None


class Exported(Span):
    """What is to be exported."""

    tenant: Annotated[Name | None, Meta(description="only this one's records; of others only hashes")] = None


class Usage(Span):
    """How use is summed."""

    by: Annotated[Name, Meta(description="names with commas, such as tenant,model; empty for one line")] = (
        "tenant,model"
    )


class Search(Span):
    """Which records of the audit log."""

    records: Literal["calls", "acts"] = "calls"
    tenant: Name = ""
    app: Name = ""
    user: Name = ""
    caller: Annotated[
        Name, Meta(description="a call's key or issuer:subject; an act's actor, with or without its kind")
    ] = ""
    client: Name = ""
    model: Name = ""
    route: Name = ""
    outcome: Name = ""
    action: Name = ""
    target: Name = ""
    limit: Many = 100
    after: Annotated[Name, Meta(description="`next` of the page before")] = ""


class Checkpoints(Form):
    """Checkpoints that were kept elsewhere, to be held against the log."""

    checkpoints: Annotated[tuple[Checkpoint, ...], Meta(max_length=100)] = ()


class NewHold(Form):
    """Records that may not be deleted."""

    reason: Annotated[Name, Meta(min_length=1)]
    tenant: Name = "*"
    user: Name = "*"
    key: Name = "*"
    since: Moment | None = None
    until: Moment | None = None


class Pruning(Form):
    """How old records are deleted."""

    dry_run: bool = False


class Replay(Form):
    """From where on a receiver is sent records again."""

    since: Annotated[
        Moment, Meta(description="a moment, `start`, or `now` to leave out what was not sent yet")
    ]


class TenantKey(Form):
    """Whose prompts are hashed with a new key."""

    tenant: Annotated[Name, Meta(description="empty for all that have none of their own")] = ""


class Prompt(Form):
    """A prompt to be hashed. It is written nowhere."""

    prompt: Annotated[str, Meta(max_length=1 << 20)]
    tenant: Name = "default"


class Password(Form):
    """The break-glass password."""

    password: str


class NewPassword(Form):
    """Another one in its place."""

    password: str
    new: str


class SetPassword(Form):
    """A break-glass password, whatever the present one is."""

    new: str


class Stop(Form):
    """How the service ends."""

    now: Literal["1", "0", ""] = ""


class ModelChange(Form):
    """What a verb takes."""

    gap: Name | None = None
    replicas: int | None = None
    why: Name | None = None


class Counter(Form):
    """Which counters begin anew."""

    rule: Name = ""
    who: Name = ""


class Callback(Form):
    """What the issuer sends the browser back with."""

    code: str | None = None
    state: str | None = None
    iss: str | None = None
    error: str | None = None


# Values in the query.
QUERIES: dict[str, type[Form]] = {
    "POST /admin/stop": Stop,
    "POST /admin/models/{model:path}/{verb}": ModelChange,
    "POST /admin/limits/reset": Counter,
    "GET /admin/callback": Callback,
    "GET /admin/keys": KeyFilter,
    "DELETE /admin/keys": KeysOf,
    "DELETE /admin/denials": OneDenial,
    "GET /admin/usage": Usage,
    "GET /admin/audit": Search,
    "GET /admin/audit/export": Exported,
}
# Bodies, as JSON objects.
BODIES: dict[str, type[Form]] = {
    "POST /admin/keys/own": OwnKey,
    "POST /admin/keys": NewKey,
    "POST /admin/keys/{id}/rotate": Rotation,
    "POST /admin/denials": NewDenial,
    "POST /admin/audit/verify": Checkpoints,
    "POST /admin/audit/holds": NewHold,
    "POST /admin/audit/prune": Pruning,
    "POST /admin/audit/ship/{sink}/replay": Replay,
    "POST /admin/audit/hash-keys": TenantKey,
    "POST /admin/audit/hash-prompt": Prompt,
    "POST /admin/login": Password,
    "POST /admin/password": NewPassword,
    "PUT /admin/password": SetPassword,
}
