"""Which options an engine's version knows, as its own parser says, and whether a command would pass it.

Two kinds of data lie in `flags/`, each with its source in its first lines. `ENGINE-VERSION.txt` is one version's whole
list: names, whether a value follows, the values allowed. `ENGINE-versions.txt` says for every name the first and the
last version that knows it, for the engines that were read at several. A version that was not read is taken to be as the
newest read one before it; a name that this one does not have is refused, because an engine that does not know a flag
does not start. argparse also accepts unambiguous beginnings of a name; here they are refused, so that no typo passes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from gemstead.catalog import versions
from gemstead.engines.flag import Command
from gemstead.refused import Reason, Refused

Version = tuple[int, ...]

FILES = {  # engine: its whole list, and its list by version where there is one
    "vllm": ("vllm-0.32.0.txt", "vllm-versions.txt"),
    "sglang": ("sglang-0.5.23.txt", "sglang-versions.txt"),
    "llamacpp": ("llamacpp-11549.txt", None),
    "tgi": ("tgi-3.txt", None),
    "tensorrt_llm": ("tensorrt_llm-1.txt", None),
    "transformers": ("transformers-5.23.0.txt", None),
    "ollama": ("ollama-2026.txt", None),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: every name it goes by, how many words follow, and what they may be."""

    names: tuple[str, ...]
    words: str  # "" none, "1" one, "?" one or none, "+" some, "*" any number
    choices: tuple[str, ...] = ()  # empty: anything


@dataclass(frozen=True, slots=True)
class FlagList:
    """What an engine knows at one version."""

    engine: str
    asked: str  # the version that was asked for; "" for the newest that was read
    read: str  # the version whose list counts
    source: str
    options: dict[str, Option]
    known: frozenset[str]  # names that this version has
    history: dict[str, tuple[Version, Version]]  # name: first and last version read that has it
    variables: frozenset[str]  # environment variables that it reads; empty: not recorded

    @property
    def exact(self) -> bool:
        """Whether the list is that of the very version asked for."""
        return not self.asked or parse(self.asked) == parse(self.read)

    def about(self, name: str) -> str:
        """What is known of a name that this version has not: other versions, or the nearest name."""
        if name in self.history:
            first, last = self.history[name]
            if parse(self.read) < first:
                return f"first seen in {_text(first)}"
            return f"last seen in {_text(last)}"
        near = difflib.get_close_matches(name, self.known, n=1)
        return f"did you mean {near[0]}?" if near else "no version that was read has it"


@cache
def flag_list(engine: str, version: str = "") -> FlagList:
    """The options of an engine at a version (empty: the newest that was read).

    Raises:
        Refused: UNSUPPORTED, for an engine without a list.
    """
    if engine not in FILES:
        raise Refused(
            Reason.UNSUPPORTED, f"there is no flag list for `{engine}`; known are {', '.join(sorted(FILES))}"
        )
    whole, by_version = FILES[engine]
    source, options = _whole(whole)
    read = whole.rsplit("-", 1)[1].removesuffix(".txt")
    if by_version is None:
        variables = frozenset(name for name in options if not name.startswith("-"))
        return FlagList(engine, version, read, source, options, frozenset(options), {}, variables)
    read_at, history = _history(by_version)
    wanted = parse(version) if version else read_at[-1]
    base = max((one for one in read_at if one <= wanted), default=read_at[0])
    has = {name for name, (first, last) in history.items() if first <= base <= last}
    # The table has main names; the other names of an option live and die with them.
    known = has | {alias for option in options.values() if has & set(option.names) for alias in option.names}
    variables = frozenset(name for name in has if not name.startswith("-"))
    return FlagList(engine, version, _text(base), source, options, frozenset(known), history, variables)


def check(command: Command) -> FlagList:
    """The list that a command was held against, when every word of it passes.

    Raises:
        Refused: UNSUPPORTED, naming the option and the version, with what is known of it.
    """
    known = flag_list(command.engine, command.version)
    read_arguments(known, [word for flag in command.flags for word in flag.words])
    for variable in command.variables:
        if known.variables and variable.name not in known.variables and variable.name not in OUTSIDE:
            raise Refused(
                Reason.UNSUPPORTED,
                f"{_named(known)} never reads the environment variable {variable.name}; use its flags",
            )
    return known


# Read by libraries beneath the engine, not by the engine itself.
OUTSIDE = {
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ZE_AFFINITY_MASK",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "SGLANG_USE_AITER",
}


def read_arguments(known: FlagList, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The words after the program, as the engine's parser would read them: option name to values.

    Raises:
        Refused: UNSUPPORTED, for an unknown option, a missing or a surplus value, a value outside the choices.
    """
    read: dict[str, tuple[str, ...]] = {}
    at = 0
    while at < len(words):
        name, equals, joined = words[at].partition("=")
        at += 1
        if not name.startswith("-"):
            raise Refused(Reason.UNSUPPORTED, f"{_named(known)} does not expect `{name}` here")
        if name not in known.known:
            raise Refused(
                Reason.UNSUPPORTED, f"{_named(known)} does not know the flag {name}; {known.about(name)}"
            )
        values = [joined] if equals else []
        while not equals and at < len(words) and not _is_option(words[at], known):
            values.append(words[at])
            at += 1
        option = known.options.get(name)
        if option is not None:
            _fits(known, name, option, values)
        read[name] = tuple(values)
    return read


def _fits(known: FlagList, name: str, option: Option, values: list[str]) -> None:
    fewest = 1 if option.words in ("1", "+") else 0
    most = {"": 0, "1": 1, "?": 1}.get(option.words, len(values))
    if not fewest <= len(values) <= most:
        wants = {"": "no value", "1": "one value", "?": "at most one value"}.get(option.words, "a value")
        raise Refused(Reason.UNSUPPORTED, f"{name} of {_named(known)} takes {wants}, not {len(values)}")
    for value in values:
        if option.choices and value not in option.choices:
            raise Refused(
                Reason.UNSUPPORTED,
                f"{name} of {_named(known)} cannot be `{value}`; it is one of {', '.join(option.choices)}",
            )


def _is_option(word: str, known: FlagList) -> bool:
    return word.startswith("--") or (word.startswith("-") and word in known.known)


def _named(known: FlagList) -> str:
    return f"{known.engine} {known.asked or known.read}"


@cache
def _whole(file: str) -> tuple[str, dict[str, Option]]:
    lines = _lines(file)
    source = lines[0].lstrip("# ")
    options: dict[str, Option] = {}
    for line in lines[1:]:
        if re.match(r"(-{1,2}[A-Za-z]|[A-Z][A-Z0-9_]+  )", line):
            option = _option(line)
            options.update(dict.fromkeys(option.names, option))
    return source, options


def _option(line: str) -> Option:
    """One line: names, then `[kind]` in our own lists or a placeholder in llama.cpp's, then `choices={...}`."""
    head, _, rest = line.partition("  ")
    names = [word.strip() for word in head.split(", ")]
    names[-1], _, placeholder = names[-1].partition(" ")
    kind = re.match(r"\[(flag|value|nargs=(.))\]", rest)
    words = "1" if placeholder else ""
    if kind:
        words = {"flag": "", "value": "1"}.get(kind[1], kind[2] or "")
    given = re.search(r"choices=\{([^}]*)\}", rest)
    # llama.cpp shows its choices in place of the value: [on|off|auto], {none,layer,row}
    shown = re.fullmatch(r"[\[{<]?([a-z0-9-]+(?:[|,][a-z0-9-]+)+)[\]}>]?", placeholder)
    # A comma list may be given in part and a cut one is not all.
    if given and "..." not in given[1]:
        choices = tuple(given[1].split(","))
    elif shown and "|" in shown[1]:
        choices = tuple(shown[1].split("|"))
    else:
        choices = ()
    return Option(tuple(names), words, choices)


@cache
def _history(file: str) -> tuple[list[Version], dict[str, tuple[Version, Version]]]:
    read_at: list[Version] = []
    history: dict[str, tuple[Version, Version]] = {}
    for line in _lines(file):
        if line.startswith("versions:"):
            read_at = [parse(word) for word in line.split()[1:]]
        elif line and not line.startswith("#"):
            name, first, last = line.split()
            history[name] = parse(first), parse(last)
    return read_at, history


def parse(version: str) -> Version:
    """The numbers of a version: `v0.32.0+cpu` is (0, 32, 0).

    Raises:
        Refused: UNSUPPORTED, when it is none.
    """
    numbers = versions.parsed(version)
    if numbers is None:
        raise Refused(Reason.UNSUPPORTED, f"`{version}` is no engine version; write it as in `0.32.0`")
    return numbers


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _lines(file: str) -> list[str]:
    return resources.files("gemstead.engines").joinpath("flags", file).read_text("utf-8").splitlines()
