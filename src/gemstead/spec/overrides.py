"""What is said outside the file: `--set models[0].context=8192` and `GEMSTEAD_MODELS__0__CONTEXT=8192`.

Both are a path and a value. A value is read as YAML, so that `8192` is a number and `[a, b]` a list. `--set` wins
over the environment, which wins over the file.

In a variable's name two underscores stand for the dot. A `GEMSTEAD_` variable that is no setting is a fault, with
three exceptions: the names that other parts read (`RESERVED`), names that the file itself refers to as
`env:GEMSTEAD_...`, and those that Kubernetes puts into every pod beside a Service called gemstead
(`GEMSTEAD_SERVICE_HOST`, `GEMSTEAD_PORT_4367_TCP_ADDR`). A variable that is set but empty counts as not set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemstead.spec.document import Document, scalar
from gemstead.spec.fault import Fault, Path, Place, nearest, written

PREFIX = "GEMSTEAD_"
RESERVED = {
    "GEMSTEAD_CONFIG": "path of the file to read when `--config` is not given",
    "GEMSTEAD_API_KEY": "key that `gemstead run` and `gemstead check` call with",
    "GEMSTEAD_URL": "address that `gemstead run` calls",
    "GEMSTEAD_ROLES": "roles that the command line is held to, such as `auditor`",
    "GEMSTEAD_ENGINE_KEY": "bearer token of an embedded engine, in that engine's own process",
    # What the documentation calls the secrets that a file refers to: set for the whole machine, they must not stop a
    # command that is run beside another file.
    "GEMSTEAD_LIMITS_URL": "where `limits.store: env:GEMSTEAD_LIMITS_URL` leads",
    "GEMSTEAD_SHARING_URL": "the same for `traffic.sharing.store`",
    "GEMSTEAD_SHARING_SECRET": "the same for `traffic.sharing.secret`",
    "GEMSTEAD_STORE_URL": "the same for `ledger.store`",
    "GEMSTEAD_STORE_SECRET": "the same for `ledger.secret`",
}
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(
    r"GEMSTEAD_([A-Z0-9_]*_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_STEP = re.compile(r"(?:^|\.)(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|\[(?P<index>\d{1,4})\]|\.(?P<dotted>\d{1,4})")


@dataclass(frozen=True, slots=True)
class Override:
    path: Path
    text: str
    place: Place


def options(said: Sequence[str]) -> tuple[list[Override], list[Fault]]:
    """The overrides that `--set` options give, and the options that could not be read."""
    overrides, faults = [], []
    place = Place("--set")
    for one in said:
        name, equals, text = one.partition("=")
        path = parse_path(name.strip())
        if not equals:
            faults.append(Fault((), "has no `=`", "write --set key=value", place))
        elif path is None:
            message = f"`{name.strip()}` is not a path of a field"
            faults.append(Fault((), message, "write it like gateway.listen or models[0].context", place))
        else:
            overrides.append(Override(path, text.strip(), place))
    return overrides, faults


def variables(
    environ: Mapping[str, str], known: Collection[str], referred: Collection[str]
) -> tuple[list[Override], list[Fault]]:
    """The overrides that the environment gives, and the `GEMSTEAD_` variables that are no setting.

    Args:
        environ: all variables; those of other programs are passed over.
        known: every setting's path without indexes, such as `gateway.listen` and `models.context`.
        referred: variables that the file names in `env:` references.
    """
    overrides, faults = [], []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name].strip() or name in RESERVED or name in referred:
            continue
        path = tuple(int(s) if s.isdigit() else s.lower() for s in name[len(PREFIX) :].split("__"))
        if ".".join(step for step in path if isinstance(step, str)) in known:
            overrides.append(Override(path, environ[name], Place(name)))
        elif not _KUBERNETES.fullmatch(name):
            faults.append(_unknown(name, known))
    return overrides, faults


def apply(document: Document, override: Override, value: Any) -> None:
    """Put the value where the path says, with the place it came from."""
    if document.value is None:
        document.value = {}
    here: Any = document.value
    step: Any  # `_misfit` sees to it that it fits
    for depth, step in enumerate(override.path):
        if fault := _misfit(here, step, override, depth):
            document.faults.append(fault)
            return
        if isinstance(here, list) and step == len(here):
            here.append(None)
        child = here[step] if isinstance(here, list) else here.get(step)
        if depth == len(override.path) - 1:
            child = value
        elif child is None:
            child = [] if isinstance(override.path[depth + 1], int) else {}
            document.places[override.path[: depth + 1]] = override.place
        here[step] = child
        here = child
    said = override.path
    for path in [path for path in document.places if path[: len(said)] == said]:
        del document.places[path]
    document.places[said] = override.place


def parse_path(text: str) -> Path | None:
    """`models[0].context` or `models.0.context` as a path; None when it is neither."""
    steps: list[str | int] = []
    end = 0
    for match in _STEP.finditer(text):
        if match.start() != end:
            return None
        end = match.end()
        number = match["index"] or match["dotted"]
        steps.append(int(number) if number else match["name"].replace("-", "_"))
    return tuple(steps) if end == len(text) and steps and isinstance(steps[0], str) else None


def referred_variables(value: Any) -> set[str]:
    """The variables that `env:NAME` references anywhere in the values name."""
    if isinstance(value, dict):
        return {name for child in value.values() for name in referred_variables(child)}
    if isinstance(value, list):
        return {name for child in value for name in referred_variables(child)}
    return {value[4:].strip()} if isinstance(value, str) and value.startswith("env:") else set()


def value_of(override: Override) -> Any:
    """The override's text read as YAML."""
    return scalar(override.text)


def _misfit(here: Any, step: str | int, override: Override, depth: int) -> Fault | None:
    """Why `step` cannot be taken from `here`, or None when it can."""
    so_far = written(override.path[:depth])
    if isinstance(here, dict) and isinstance(step, str):
        return None
    if isinstance(here, list) and isinstance(step, int):
        if step <= len(here):
            return None
        message = f"{so_far} has {len(here)} entries, so there is no [{step}]"
        return Fault(override.path, message, f"the next one is [{len(here)}]", override.place)
    kind = "a list" if isinstance(here, list) else "a section" if isinstance(here, dict) else "a single value"
    wants = "write an index, as in models[0].context" if isinstance(here, list) else "check the path"
    return Fault(override.path, f"{so_far or 'the file'} is {kind}", wants, override.place)


def _unknown(name: str, known: Collection[str]) -> Fault:
    names = {PREFIX + path.replace(".", "__").upper(): path for path in known}
    names |= dict.fromkeys(RESERVED, "")
    indexed = [re.sub(r"^(GEMSTEAD_MODELS)__", r"\1__0__", one) for one in names]
    close = nearest(name, indexed)
    return Fault(
        (), "is no setting of Gemstead", f"did you mean {close}?" if close else "unset it", Place(name)
    )
