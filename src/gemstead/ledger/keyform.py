r"""What an API key looks like.

    gms_AbCdEfGh0123456789abcdefghijkl6chksm
    \__________/\____________________/\____/
       key id          secret        checksum

A fixed prefix lets secret scanners recognise a leaked key. The next 8 characters are the key's public id:
they are drawn by themselves and say nothing about the 22 that follow (131 bits). The last 6 are the CRC-32 of
all before them in base 62, so any single mistyped character, and any two neighbours swapped, is refused
without a lookup (a CRC-32 finds every burst of up to 32 bits). This is the form that GitHub gave its tokens
in 2021.

Showing a key's last 4 characters (of the checksum) costs 24 of those bits and leaves 107.
"""

from __future__ import annotations

import secrets
import zlib

PREFIX = "gms_"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = len(PREFIX) + 8
_BODY_LENGTH = len(PREFIX) + 30
LENGTH = _BODY_LENGTH + 6

_PREFIX_BYTES = PREFIX.encode()
_LETTERS = frozenset(ALPHABET.encode())


def mint() -> str:
    """A new key, from the operating system's randomness."""
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(30))
    return body + checksum(body.encode())


def checksum(body: bytes) -> str:
    """CRC-32 of a key's first 34 characters, as 6 characters of base 62, most significant first."""
    number, letters = zlib.crc32(body), ""
    for _ in range(6):
        number, rest = divmod(number, 62)
        letters = ALPHABET[rest] + letters
    return letters


def looks_like_a_key(text: bytes) -> bool:
    """Whether the text begins like a key of ours, right or mistyped."""
    return text.startswith(_PREFIX_BYTES)


def is_well_formed(text: bytes) -> bool:
    """Whether length, letters and checksum are right."""
    return (
        len(text) == LENGTH
        and text.startswith(_PREFIX_BYTES)
        and _LETTERS.issuperset(text[len(PREFIX) :])
        and text[_BODY_LENGTH:] == checksum(text[:_BODY_LENGTH]).encode()
    )


def key_id_of(secret: str) -> str:
    """The public id inside a key."""
    return secret[:ID_LENGTH]
