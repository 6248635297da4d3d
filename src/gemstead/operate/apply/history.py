"""Records of bundles as text: what a place keeps so that anyone can go back, from any machine.

Gzip in base64, because places bound what they keep (1 MiB for an object of Kubernetes, 64 KiB for a Google secret) and
rendered files say the same things many times. A record that cannot be read is passed over: it must not stand in the
way of applying.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Sequence

from gemstead.operate.apply.piece import Piece, Record

MOST_BYTES = 8 << 20  # of one record when unpacked: a bundle is a few hundred KiB


def packed(record: Record) -> str:
    """The record as one line of ASCII; the same record gives the same line."""
    said = {
        "number": record.number,
        "status": record.status,
        "at": record.at,
        "pieces": [[piece.key, piece.stage, piece.document] for piece in record.pieces],
    }
    raw = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64encode(gzip.compress(raw, mtime=0)).decode()


def unpacked(text: str) -> Record | None:
    """The record, or None when this is none."""
    try:
        with_end = zlib.decompressobj(wbits=31)
        raw = with_end.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
        said = json.loads(raw)
        pieces = tuple(Piece(str(key), dict(document), int(stage)) for key, stage, document in said["pieces"])
        return Record(int(said["number"]), str(said["status"]), pieces, str(said["at"]))
    except (binascii.Error, zlib.error, ValueError, KeyError, TypeError):
        return None


def in_order(records: Sequence[Record | None]) -> tuple[Record, ...]:
    """Those that could be read, oldest first."""
    return tuple(sorted((one for one in records if one is not None), key=lambda one: one.number))
