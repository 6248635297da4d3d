"""The bytes of batches in a store: files in parts of a MiB, and the answers of batches that go on. All of it sealed.

What callers send in files is content. So nobody reads it who has the database alone, or a dump of it: each part is
sealed with AES-256-GCM under a key that lies in the vault (`vault.py`), and what it is a part of belongs to its seal,
so that none can be put in another's place. Parts are small, and at most a few are in memory.

Parts of a file count once there is a row for it (`batches.py`); those of an upload that was cut are removed later.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gemstead.ledger.postgres.link import Link
from gemstead.ledger.postgres.links import Links
from gemstead.ledger.postgres.vault import Vault

PART_BYTES = 1 << 20
ANSWERS_AT_ONCE = 16  # blocks of answers that are fetched together, of a MiB each but for huge answers
CUT_S = 6 * 3600.0  # parts without a row are of an upload that was cut, after this
_NONCE_BYTES = 12
NOW = "extract(epoch FROM clock_timestamp())::float8"  # the server's clock, the same for all gateways


class Seal:
    """Seals and opens. The key is fetched from the vault when it is first needed, so first outside of a transaction: a
    key that was made within one that fails is none. For any thread."""

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret, self._lock = secret, threading.Lock()
        self._cipher: Any = None

    def close(self, link: Link, what: str, data: bytes) -> bytes:
        """The data, sealed as that."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + bytes(self._key(link).encrypt(nonce, data, what.encode()))

    def open(self, link: Link, what: str, sealed: bytes) -> bytes:
        """The data that was sealed as that.

        Raises:
            OSError: it was not, or not by gateways of this store.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(self._key(link).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], what.encode()))
        except InvalidTag:
            raise OSError(f"{what} in the store is damaged, or was sealed by somebody else") from None

    def _key(self, link: Link) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        with self._lock:
            if self._cipher is None:
                self._cipher = AESGCM(Vault(link, self._secret()).files_key())
            return self._cipher


class Parts:
    """The bytes behind one pool of connections.

    Raises:
        LedgerTrouble: (every method) the store cannot be used.
    """

    def __init__(self, links: Links, secret: Callable[[], str]) -> None:
        self._links, self.seal = links, Seal(secret)

    def put(self, file_id: str, pieces: Iterable[bytes]) -> int:
        """Keep these bytes as the parts of that file, in place of any there are; how many bytes."""
        with self._links.one() as link:
            link.do("DELETE FROM gemstead_file_parts WHERE file_id = $1", file_id)
        size = 0
        for n, part in enumerate(parted(pieces)):
            with self._links.one() as link:
                link.do(
                    f"INSERT INTO gemstead_file_parts (file_id, n, at, data) VALUES ($1, $2, {NOW}, $3)",  # noqa: S608
                    *(file_id, n, self.seal.close(link, f"{file_id}/{n}", part)),
                )
            size += len(part)
        return size

    def get(self, file_id: str, size_bytes: int) -> Iterator[bytes]:
        """The parts of a file of that size.

        Raises:
            OSError: some of them are missing.
        """
        found = n = 0
        while found < size_bytes:
            with self._links.one() as link:
                data = link.value(
                    "SELECT data FROM gemstead_file_parts WHERE file_id = $1 AND n = $2", file_id, n
                )
                part = self.seal.open(link, f"{file_id}/{n}", bytes(data)) if data is not None else b""
            if not part:
                raise FileNotFoundError(f"bytes of {file_id} are missing in the store")
            found, n = found + len(part), n + 1
            yield part

    def answers(self, batch_id: str) -> Iterator[bytes]:
        """The blocks of answers of a batch, in the order that they came."""
        after = 0
        while True:
            with self._links.one() as link:
                rows = link.rows(
                    "SELECT n, data FROM gemstead_answers WHERE batch_id = $1 AND n > $2 ORDER BY n LIMIT $3",
                    *(batch_id, after, ANSWERS_AT_ONCE),
                )
                blocks = [self.seal.open(link, batch_id, bytes(data)) for _, data in rows]
            yield from blocks
            if len(rows) < ANSWERS_AT_ONCE:
                return
            after = rows[-1][0]

    def tidy(self) -> int:
        """Remove parts of uploads that were cut; how many."""
        with self._links.one() as link:
            return link.do(
                f"DELETE FROM gemstead_file_parts p WHERE p.at < {NOW} - $1 AND NOT EXISTS "  # noqa: S608
                "(SELECT 1 FROM gemstead_files f WHERE f.file_id = p.file_id)",
                CUT_S,
            )


def parted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of `PART_BYTES`, the last one smaller."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= PART_BYTES:
            yield bytes(held[:PART_BYTES])
            del held[:PART_BYTES]
    if held:
        yield bytes(held)
