"""The keeper reads secrets by reference, remembers them, and notices when one has changed.

Each reference is read once and kept: `env:` for good, `file:` until the file changes, the rest for `refresh_s`. When a
source cannot be asked any more the last value counts, and the trouble is told: a Vault that is down must not take the
service down with it. A secret that was never read is an error at once.

Values are in memory and nowhere else. Safe to call from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gemstead.operate.secrets import local
from gemstead.operate.secrets.reference import NoSecret, Reference, field_of, parse
from gemstead.spec.secrets import SecretsSpec

__all__ = ["Keeper", "NoSecret", "field_of"]


class Source(Protocol):
    """Whoever reads one kind of reference, or raises NoSecret."""

    def read(self, reference: Reference) -> str: ...


@dataclass(slots=True)
class Kept:
    """One value as it was read."""

    value: str = field(repr=False)
    read_at: float
    state: tuple[int, ...] = ()


class Keeper:
    """All secrets of one process.

    Args:
        spec: where the stores are.
        environ: for `env:`.
        clock: monotonic seconds.
        trouble: told a sentence when a known secret can no longer be refreshed.
    """

    def __init__(
        self,
        spec: SecretsSpec,
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        trouble: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._spec, self._environ, self._clock, self._trouble = spec, environ, clock, trouble
        self._kept: dict[str, Kept] = {}
        self._sources: dict[str, Source] = {}
        self._troubled: set[str] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Keeper({len(self._kept)} secrets)"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that is kept, for whoever must keep them out of what is written."""
        return tuple({kept.value for kept in self._kept.values()})

    def get(self, text: str) -> str:
        """The value that the reference stands for, at most `refresh_s` old while its store can be asked.

        Raises:
            NoSecret: it was never read, and cannot be.
        """
        with self._lock:
            kept = self._kept.get(text)
            if kept is None or self._due(parse(text), kept):
                return self._renewed(text, kept)
            return kept.value

    def changed(self) -> list[str]:
        """The references whose value is another than at the last call of `get`; what is due is read again."""
        found = []
        with self._lock:
            for text, kept in list(self._kept.items()):
                if self._due(parse(text), kept) and self._renewed(text, kept) != kept.value:
                    found.append(text)
        return found

    def _due(self, reference: Reference, kept: Kept) -> bool:
        if reference.kind == "env":
            return False
        if reference.kind == "file":
            return local.state_of(reference) != kept.state
        return self._clock() - kept.read_at >= self._spec.refresh_s

    def _renewed(self, text: str, kept: Kept | None) -> str:
        reference = parse(text)
        state = local.state_of(reference) if reference.kind == "file" else ()
        try:
            value = self._read(reference)
        except NoSecret as error:
            if kept is None:
                raise
            kept.read_at = self._clock()
            if text not in self._troubled:
                self._troubled.add(text)
                self._trouble(f"a secret cannot be refreshed, its last value stays in use: {error}")
            return kept.value
        self._troubled.discard(text)
        self._kept[text] = Kept(value, self._clock(), state)
        return value

    def _read(self, reference: Reference) -> str:
        if reference.kind == "env":
            return local.from_environment(reference, self._environ)
        if reference.kind == "file":
            return local.from_file(reference, private=self._spec.file_mode == "private")
        source = self._sources.get(reference.kind)
        if source is None:
            source = self._sources[reference.kind] = self._made(reference.kind)
        value = source.read(reference)
        if not value:
            raise NoSecret(f"{reference}: is empty; put the secret into it")
        return value

    def _local(self, text: str) -> str:
        return self._read(parse(text))

    def _made(self, kind: str) -> Source:
        if kind == "vault":
            from gemstead.operate.secrets.vault import Vault

            if self._spec.vault is None:
                raise NoSecret("vault: the file says no secrets.vault.address")
            return Vault(self._spec.vault, self._local)
        if kind == "aws-sm":
            from gemstead.operate.secrets.aws import Aws

            return Aws(self._spec.aws)
        if kind == "gcp-sm":
            from gemstead.operate.secrets.gcp import Gcp

            return Gcp(self._spec.gcp)
        from gemstead.operate.secrets.kubernetes import Kubernetes

        return Kubernetes(self._spec.kubernetes, self._environ)
