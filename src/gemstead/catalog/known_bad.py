"""The ledger of known-bad combinations: what has gone wrong for others, asked before anything is launched.

An entry names a combination (engine, its versions, model, checkpoint, card, flags, variables, versions of what is
installed beside it), the symptom by which people met it, what to do, and the issue where it is told. `consult` returns
the entries that a launch would meet. Whatever an entry does not name does not matter to it.

What is not known of a launch is not held against it, with one exception: an entry about certain versions, of the engine
or of what is beside it, is returned as uncertain when the version is not said, because that is how people are bitten.

Written patterns are those of a shell (`*`, `?`), without regard to case. `--flag` is met when the flag is given,
`--flag=PATTERN` when its value fits, `--flag=!PATTERN` when it is given and does not fit; `A|B` fits either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from gemstead.catalog import data, versions
from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.models import ModelFacts

# How bad, worst first: data or access is exposed; it does not start or it crashes; answers are wrong or never come;
# it is needlessly slow or small; a figure or a default is not what one would think.
SEVERITIES = ("unsafe", "stops", "wrong", "slow", "note")

Flags = Mapping[str, str] | Sequence[str]


@dataclass(frozen=True, slots=True)
class KnownBad:
    """One entry of the ledger. An empty field means any."""

    id: str
    engine: str
    symptom: str
    remedy: str
    issues: tuple[str, ...]  # owner/repository#number, or where else it is told
    severity: str  # one of SEVERITIES
    versions: str = ""  # a range, as in `versions`
    models: tuple[str, ...] = ()  # sizes
    checkpoints: tuple[str, ...] = ()  # patterns of format, width or repository
    cards: tuple[str, ...] = ()  # ids, `sm_86`, or vendors
    flags: tuple[str, ...] = ()  # all are met
    any_flags: tuple[str, ...] = ()  # at least one is met
    without: tuple[str, ...] = ()  # none is met
    env: tuple[str, ...] = ()  # at least one is met: NAME or NAME=PATTERN
    without_env: tuple[str, ...] = ()  # none is met
    beside: dict[str, str] = field(default_factory=dict)  # package: range of its versions
    certain: bool = True  # False: seen, but when it begins or ends is not known, or a version was not said

    @property
    def issue(self) -> str:
        """The issues in one line."""
        return ", ".join(self.issues)

    @property
    def blocks(self) -> bool:
        """Whether a launch should be refused: it would not start, and that is certain."""
        return self.severity == "stops" and self.certain

    def __str__(self) -> str:
        told = f" ({self.issue})" if self.issues else ""
        return f"{self.symptom}{told}: {self.remedy}"


@cache
def ledger() -> tuple[KnownBad, ...]:
    """Every entry that is built in."""
    return tuple(entry_of(entry) for entry in data.read("known_bad")["known_bad"])


def consult(
    engine: str,
    version: str = "",
    model: ModelFacts | str | None = None,
    accelerator: Accelerator | None = None,
    flags: Flags | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    env: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
    among: Sequence[KnownBad] | None = None,
) -> list[KnownBad]:
    """The known-bad combinations that a launch would meet, worst first.

    Args:
        engine: its key, such as "vllm".
        version: as the engine writes it; empty: not known, so entries about versions are uncertain.
        model: its facts or its size.
        accelerator: the card or slice.
        flags: the launch line's words after the program, or a mapping of flag to value; None: not known, so no entry
            about flags is met.
        checkpoint: which form of the weights.
        env: the variables that the engine will see.
        beside: versions of packages that it runs with, such as {"transformers": "5.15.0"}.
        among: the ledger to ask; the built-in one when None.
    """
    asked = _Asked(
        "llamacpp" if engine == "embedded" else engine,
        version,
        model.size if isinstance(model, ModelFacts) else (model or ""),
        accelerator,
        None if flags is None else given(flags),
        checkpoint,
        dict(env or {}),
        dict(beside or {}),
    )
    met = [asked.meets(entry) for entry in (ledger() if among is None else among)]
    return sorted((entry for entry in met if entry), key=lambda entry: SEVERITIES.index(entry.severity))


known_bad = consult


def given(flags: Flags) -> dict[str, str]:
    """A launch line's words as flag and value; a flag without a value has an empty one, a repeated one its last.

    `--speculative-config.model x` counts as `--speculative-config` with the value `model x`, as vLLM reads it.
    """
    if isinstance(flags, Mapping):
        return {str(name): str(value) for name, value in flags.items()}
    found: dict[str, str] = {}
    name = ""
    for word in flags:
        if word.startswith("-") and not word[1:2].isdigit():
            name, _, value = word.partition("=")
            name, dot, part = name.partition(".")
            found[name] = f"{part} {value}".strip() if dot else value
        elif name:
            found[name] = f"{found[name]} {word}".strip()
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is known of a launch."""

    engine: str
    version: str
    model: str
    card: Accelerator | None
    flags: Mapping[str, str] | None
    checkpoint: Checkpoint | None
    env: Mapping[str, str]
    beside: Mapping[str, str]

    def meets(self, entry: KnownBad) -> KnownBad | None:
        """The entry, when this launch meets it; uncertain when a version that matters is not known."""
        if entry.engine != self.engine or not (self._names(entry) and self._says(entry)):
            return None
        unknown = False
        ranges = [(entry.versions, self.version)]
        ranges += [(bounds, self.beside.get(package, "")) for package, bounds in entry.beside.items()]
        for bounds, version in ranges:
            if not bounds:
                continue
            if not version or versions.parsed(version) is None:
                unknown = True
            elif not versions.within(version, bounds):
                return None
        return replace(entry, certain=False) if unknown else entry

    def _names(self, entry: KnownBad) -> bool:
        """Whether model, checkpoint and card are among those that the entry names."""
        if entry.models and self.model not in entry.models:
            return False
        if entry.checkpoints and not self._checkpoint_in(entry.checkpoints):
            return False
        return not entry.cards or self._card_in(entry.cards)

    def _checkpoint_in(self, patterns: Iterable[str]) -> bool:
        one = self.checkpoint
        return one is not None and any(
            _fits(text, pattern) for pattern in patterns for text in (one.format, one.bits, one.repo)
        )

    def _card_in(self, names: Iterable[str]) -> bool:
        card = self.card
        if card is None:
            return False
        own = {card.id, card.parent, card.vendor, card.arch, f"sm_{card.sm}"}
        return any(name in own for name in names)

    def _says(self, entry: KnownBad) -> bool:
        """Whether flags and variables are as the entry names them."""
        if self.flags is None:
            return not (entry.flags or entry.any_flags or entry.without) and self._env_says(entry)
        return (
            all(_given(self.flags, one) for one in entry.flags)
            and (not entry.any_flags or any(_given(self.flags, one) for one in entry.any_flags))
            and not any(_given(self.flags, one) for one in entry.without)
            and self._env_says(entry)
        )

    def _env_says(self, entry: KnownBad) -> bool:
        return (not entry.env or any(_given(self.env, one) for one in entry.env)) and not any(
            _given(self.env, one) for one in entry.without_env
        )


def _given(said: Mapping[str, str], condition: str) -> bool:
    name, equals, pattern = condition.partition("=")
    if name not in said:
        return False
    if not equals:
        return True
    if pattern.startswith("!"):
        return not _fits(said[name], pattern[1:])
    return _fits(said[name], pattern)


def _fits(text: str, pattern: str) -> bool:
    return any(fnmatchcase(text.casefold(), one) for one in pattern.casefold().split("|"))


def entry_of(entry: Mapping[str, Any]) -> KnownBad:
    """An entry as it is written in the file."""
    lists: dict[str, Any] = {
        name: tuple(map(str, value)) for name, value in entry.items() if isinstance(value, (list, tuple))
    }
    return KnownBad(**{**entry, **lists})
