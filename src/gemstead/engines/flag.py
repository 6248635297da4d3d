"""What an engine is told: flags and environment, each with its reason and its source, and the line they make.

A flag is a value with a story: why it is there, and where that is written. `--explain` prints the story; a launcher
takes the line. Nothing is decided here: the adapters (`vllm.py`, `sglang.py`, ...) decide, `flaglist.py` checks.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of an engine. Without a value it is a switch; several values follow one another."""

    name: str  # as the engine spells it: "--max-model-len"
    value: str | tuple[str, ...] | None
    reason: str
    source: str

    @property
    def words(self) -> tuple[str, ...]:
        """The words on the command line."""
        if self.value is None:
            return (self.name,)
        return (self.name, *((self.value,) if isinstance(self.value, str) else self.value))


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable that the engine reads."""

    name: str
    value: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Command:
    """How one engine process is started, and what to know before doing so."""

    engine: str
    version: str
    program: tuple[str, ...]  # with the positional arguments: ("vllm", "serve", "google/gemma-4-31B-it")
    flags: tuple[Flag, ...] = ()
    variables: tuple[Variable, ...] = ()
    afterwards: tuple[tuple[str, ...], ...] = ()  # commands once it runs (Ollama fetches its model then)
    notes: tuple[str, ...] = ()  # sentences for the user

    @property
    def argv(self) -> tuple[str, ...]:
        """Program and arguments, unquoted."""
        return (*self.program, *(word for flag in self.flags for word in flag.words))

    @property
    def env(self) -> dict[str, str]:
        """What is added to the environment."""
        return {variable.name: variable.value for variable in self.variables}

    def flag(self, name: str) -> Flag | None:
        """The flag of that name, or None."""
        return next((flag for flag in self.flags if flag.name == name), None)

    def shell(self) -> str:
        """The command for a shell: a flag on each line, quoted where needed."""
        start = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        lines = [" ".join([*start, shlex.join(self.program)])]
        lines += [shlex.join(flag.words) for flag in self.flags]
        return " \\\n  ".join(lines)
