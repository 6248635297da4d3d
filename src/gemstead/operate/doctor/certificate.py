"""Until when a certificate holds, read from its file without a cryptography library.

A certificate is nested DER: the outer sequence holds the part that is signed, whose fields are, in order, an optional
version, serial number, algorithm, issuer, validity, ... (RFC 5280, 4.1). Validity is two times; the second is ours.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_SEQUENCE, _VERSION, _UTC_TIME, _GENERAL_TIME = 0x30, 0xA0, 0x17, 0x18


def valid_until(pem: str) -> float:
    """When the first certificate in a PEM text ends, in seconds since 1970.

    Raises:
        ValueError: there is no certificate in it, or not one of this form.
    """
    start, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if start not in pem or end not in pem:
        raise ValueError("holds no certificate")
    first = pem[pem.index(start) : pem.index(end) + len(end)]
    try:
        fields = _parts(_parts(_parts(ssl.PEM_cert_to_DER_cert(first))[0][1])[0][1])
        if fields[0][0] == _VERSION:
            fields = fields[1:]
        kind, text = _parts(fields[3][1])[1]
        return _seconds(kind, text.decode("ascii"))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("is no certificate that can be read") from error


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """The elements that lie side by side: (tag, content)."""
    parts, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, at = int.from_bytes(der[at : at + width], "big"), at + width
        if at + length > len(der):
            raise IndexError("cut short")
        parts.append((tag, der[at : at + length]))
        at += length
    return parts


def _seconds(kind: int, text: str) -> float:
    if kind == _UTC_TIME:  # two digits of year: 50 and above are the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    elif kind != _GENERAL_TIME:
        raise ValueError("has a date of an unknown form")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
