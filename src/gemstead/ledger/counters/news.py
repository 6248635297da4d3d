"""What gateways tell each other (`traffic/sharing.py`), over a stream on Redis or Valkey.

One stream for all who share a secret. A round trip adds what we have to say and brings what was said since the last;
entries older than `KEPT_S` are dropped with each, by the server's clock, and the stream ends by itself when nobody
speaks any more. Nothing of this is worth a disk, and nothing is lost that matters when the server is away.

What is said is sealed (ChaCha20-Poly1305), because whoever can read a hash of a prompt can try prompts against it, and
whoever can write one can send calls astray: a server that others use too is trusted with neither.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any, Final

import msgspec
import redis.asyncio as redis
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from gemstead.ledger.counters import StoreAway
from gemstead.ledger.counters.redis import client, plainly
from gemstead.traffic.sharing import News

KEPT_S: Final = 30.0  # so long back, whoever starts learns what prompts were sent
OLD_S: Final = 1.0  # what is older says nothing of what runs
MOST_AT_ONCE: Final = 2000
NONCE_BYTES: Final = 12
END_S: Final = 120
_decode = msgspec.msgpack.Decoder(News).decode


def derived(secret: str, what: bytes, size: int) -> bytes:
    """A key for one purpose, from the secret that gateways share."""
    return blake2b(secret.encode(), digest_size=size, person=what).digest()


def hash_seed(secret: str) -> str:
    """PYTHONHASHSEED for processes that are to hash prompts alike: 1 to 2**32 - 1."""
    return str(int.from_bytes(derived(secret, b"gemstead-seed", 4), "big") or 1)


class NewsStream:
    """The stream on the server that a `redis://`, `rediss://`, `unix://` or `valkey://` URL names."""

    def __init__(self, url: str, secret: str) -> None:
        self._client: Any = client(url, text=False)
        self._key = b"{gemstead}:traffic:" + derived(secret, b"gemstead-stream", 8).hex().encode()
        self._seal = ChaCha20Poly1305(derived(secret, b"gemstead-news", 32))
        self._last = b""  # entry that was read
        self.server_s = 0.0  # its clock, when we last spoke
        self.strange = 0  # entries that nobody with our secret has written

    async def turn(self, news: News) -> tuple[list[News], list[News]]:
        """Say this; what others have said since, oldest first: what is old by now, and what is not.

        Raises:
            StoreAway: the server did not answer, or cannot do this.
        """
        nonce = os.urandom(NONCE_BYTES)
        blob = nonce + self._seal.encrypt(nonce, msgspec.msgpack.encode(news), self._key)
        pipe = self._client.pipeline(transaction=False)
        floor = max(int((self.server_s - KEPT_S) * 1000), 0)
        pipe.xadd(self._key, {b"n": blob}, minid=floor, approximate=True)
        pipe.expire(self._key, END_S)
        try:
            if not self._last:  # where we begin: the server's clock, not ours
                seconds, micros = await self._client.time()
                self._last = b"%d-0" % max(int((seconds + micros / 1e6 - KEPT_S) * 1000), 0)
            pipe.xread({self._key: self._last}, count=MOST_AT_ONCE)
            own, _, read = await pipe.execute()
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise StoreAway(plainly(error)) from error
        self.server_s = int(own.partition(b"-")[0]) / 1000
        sorted_out = self._sorted(read)
        if int(own.partition(b"-")[0]) < int(self._last.partition(b"-")[0]):
            self._last = b""  # another server took over, whose clock is behind: begin anew
        return sorted_out

    def _sorted(self, read: Any) -> tuple[list[News], list[News]]:
        old: list[News] = []
        fresh: list[News] = []
        for _, entries in read.items() if isinstance(read, dict) else read or ():
            for name, fields in _flat(entries):
                self._last = name
                age_s = self.server_s - int(name.partition(b"-")[0]) / 1000
                if (news := self._opened(fields)) is not None:
                    (old if age_s > OLD_S else fresh).append(news)
        return old, fresh

    def _opened(self, fields: dict[bytes, bytes]) -> News | None:
        blob = fields.get(b"n", b"")
        try:
            return _decode(self._seal.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], self._key))
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            self.strange += 1
            return None

    async def close(self) -> None:
        await self._client.aclose()


def _flat(entries: Any) -> Any:
    """Entries of one stream; newer clients put them into one more list."""
    return entries[0] if entries and isinstance(entries[0], list) else entries
