"""S3-compatible object storage: one gzip file of JSON lines for each batch.

A file's name is made of the chain, the day and the first and last place in it: `PREFIX/CHAIN/2026/11/21/
000000001234-000000001733.ocsf.jsonl.gz`. Sent again, a batch that begins at the same place has the same name or
another end; a reader takes the longer, or goes by `uid`. A bucket with object lock makes it write-once.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gemstead.ledger.ship.forms import Shipped, shaped
from gemstead.ledger.ship.sink import Later, SinkSettings, Unwanted


class S3:
    """A bucket. Without a token, the usual AWS variables and roles count."""

    def __init__(self, settings: SinkSettings) -> None:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise Later("needs a library that is not here: pip install 'gemstead[s3]'") from None
        parts = urlsplit(settings.url)
        self.settings, self.prefix = settings, parts.path.strip("/")
        config: Any = {"region": settings.region}
        client: Any = {"timeout": f"{settings.timeout_s}s", "connect_timeout": "10s"}
        if settings.token:
            config["access_key_id"], _, config["secret_access_key"] = settings.token.partition(":")
        if settings.endpoint:
            config["endpoint"] = settings.endpoint
            client["allow_http"] = settings.endpoint.startswith("http://")
        self.store = S3Store(
            parts.netloc, config=config, client_options=client, retry_config={"max_retries": 0}
        )

    def send(self, batch: Sequence[Shipped]) -> Unwanted:
        import obstore

        lines = b"".join(msgspec.json.encode(shaped(one, self.settings.form)) + b"\n" for one in batch)
        first, last = batch[0], batch[-1]
        day = datetime.fromtimestamp(max(first.at, 0.0), UTC).strftime("%Y/%m/%d")
        name = f"{first.chain}/{day}/{first.seq:012d}-{last.seq:012d}.{self.settings.form}.jsonl.gz"
        path = f"{self.prefix}/{name}" if self.prefix else name
        try:
            obstore.put(self.store, path, gzip.compress(lines, 6, mtime=0))
        except Exception as error:  # the library has many kinds, and quotes requests in their texts
            raise Later(f"cannot be written: {type(error).__name__}") from None
        return []

    def close(self) -> None:
        pass
