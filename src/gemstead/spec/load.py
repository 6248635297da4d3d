"""Text becomes a `Spec` here, once: the file, then the environment over it, then `--set` over both.

Everything is a value: the text, the options and the environment are handed in, and nothing is read. What is
wrong is said all at once, each fault with its line, or with the option or variable that it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from gemstead.spec import checks, document, overrides, sentences
from gemstead.spec.document import Document
from gemstead.spec.fault import Fault, Path, Place, SpecError, in_order, located
from gemstead.spec.fields import known_paths
from gemstead.spec.model import Spec
from gemstead.spec.overrides import PREFIX, Override

FILE = "gemstead.yaml"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid Spec, and where each of its fields was said, for whoever checks further (`catalog/check.py`)."""

    spec: Spec
    name: str = FILE
    places: Mapping[Path, Place] = field(default_factory=dict)

    def located(self, faults: Iterable[Fault]) -> list[Fault]:
        """The faults with their places, in the order of the file."""
        return in_order(located(fault, self.places) for fault in faults)


def parse(
    text: str,
    name: str = FILE,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Spec:
    """The Spec that the text, `--set` options and environment give.

    Raises:
        SpecError: with every fault.
    """
    return load(text, name, overrides, environ).spec


def load(
    text: str,
    name: str = FILE,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    further: Callable[[Spec], list[Fault]] | None = None,
) -> Loaded:
    """As `parse`, with the places of what was said.

    Args:
        text: the file's content; empty for no file.
        name: what the file is called in faults.
        overrides: `--set` options, such as `models[0].context=8192`; a later one wins.
        environ: environment variables; the `GEMSTEAD_` ones count.
        further: more checks of the Spec, whose faults are said together with the others.

    Raises:
        SpecError: with every fault.
    """
    said = document.read(text, name)
    if said.value is not None and not isinstance(said.value, dict):
        said.faults.append(
            Fault(
                (), "does not hold fields", "write `field: value` lines, such as `version: 1`", Place(name, 1)
            )
        )
        said.value = None
    applied = _override(said, overrides, environ or {})
    spec, found = _validated(said, applied)
    if spec is not None:
        found += [*checks.check(spec), *(further(spec) if further else ())]
    every = in_order([*said.faults, *(located(fault, said.places) for fault in found)])
    if every or spec is None:
        raise SpecError(list(dict.fromkeys(every)))
    return Loaded(spec, name, said.places)


def salvaged(
    text: str,
    name: str,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    sections: Collection[str],
) -> Spec:
    """The Spec that these sections alone give, whatever is wrong with the others, in their YAML too.

    For looking at and stopping a service whose file is being edited.

    Raises:
        SpecError: the fault is in one of them.
    """
    named = re.compile(f"({'|'.join(sections)})\\b")
    counts = False
    kept = []
    for line in text.splitlines():  # others become empty lines, so that faults keep their places
        if line[:1] not in ("", " ", "\t", "#", "-"):
            counts = named.match(line) is not None
        kept.append(line if counts else "")
    starts = tuple(f"{PREFIX}{section.upper()}" for section in sections)
    return load(
        "\n".join(kept),
        name,
        [said for said in overrides if named.match(said.strip())],
        {
            var: value
            for var, value in environ.items()
            if not var.startswith(PREFIX) or var.startswith(starts)
        },
    ).spec


def _override(said: Document, options: Sequence[str], environ: Mapping[str, str]) -> list[Override]:
    """Lay the environment and then the options over what the file says; return what was laid."""
    referred = overrides.referred_variables(said.value)
    from_environ, unknown = overrides.variables(environ, known_paths(), referred)
    from_options, unreadable = overrides.options(options)
    said.faults += [*unknown, *unreadable]
    applied = [*from_environ, *from_options]
    for override in applied:
        overrides.apply(said, override, overrides.value_of(override))
    return applied


def _validated(said: Document, applied: Sequence[Override]) -> tuple[Spec | None, list[Fault]]:
    """The Spec, or what is wrong with the values.

    A value from outside the file is tried as YAML first and as plain text second, so that
    `GEMSTEAD_STATE_DIR=2026` and `--set models[0].name=1` need no quotes inside quotes.
    """
    try:
        return Spec.model_validate(_settled(said.value or {})), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    texts = {override.path: override for override in applied}
    wrong = [error["loc"] for error in errors if error["type"] == "string_type" and error["loc"] in texts]
    if not wrong:
        return None, sentences.faults(errors)
    for path in wrong:
        overrides.apply(said, texts[path], texts[path].text)
    return _validated(said, [override for override in applied if override.path not in wrong])


def _settled(value: Any) -> Any:
    """Lists as tuples, and fields with nothing after the colon as not said."""
    if isinstance(value, dict):
        return {name: _settled(child) for name, child in value.items() if child is not None}
    if isinstance(value, list):
        return tuple(_settled(child) for child in value)
    return value
