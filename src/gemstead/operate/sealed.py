"""Files that are sealed for whoever has a key or a passphrase, in the format of age (https://age-encryption.org/v1).

So a sealed backup is opened by Gemstead, and by the `age` command wherever there is no Gemstead. The format is C2SP's
(github.com/C2SP/C2SP, age.md): a file key of 16 bytes is wrapped for each recipient in a *stanza* of the header, by
X25519 and HKDF-SHA-256, or for a passphrase by scrypt; the header has an HMAC under it; what follows is sealed with
ChaCha20-Poly1305 in chunks of 64 KiB whose nonces count, the last one marked, so that nothing can be changed, moved or
cut off unseen. The primitives are the cryptography library's; here is only how they are put together.

Streams both ways: a chunk is in memory at a time. What comes out of `opened` before its end is true as far as it goes,
and may be cut: believe the whole when it has ended.
"""

from __future__ import annotations

import hmac
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

MAGIC = b"age-encryption.org/v1\n"
CHUNK = 64 * 1024
TAG = 16
HEADER_MOST = 64 * 1024
SCRYPT_LOG_N, SCRYPT_LOG_N_MOST = 18, 22  # as the age command has them: about a second, 256 MiB
_ZERO = bytes(12)
_X25519, _SCRYPT = b"age-encryption.org/v1/X25519", b"age-encryption.org/v1/scrypt"
_HRP, _SECRET_HRP = "age", "age-secret-key-"
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_COLUMNS = 64


class SealTrouble(Exception):
    """It cannot be sealed or opened. A sentence for the user."""


class Locked(SealTrouble):
    """What would open it was not given."""


@dataclass(frozen=True, slots=True)
class Stanza:
    """How one recipient gets at the file key."""

    args: tuple[str, ...]
    body: bytes


# Keys.


def new_identity() -> tuple[str, str]:
    """A new secret key, and the recipient that goes with it."""
    key = X25519PrivateKey.generate()
    secret = bech32(_SECRET_HRP, key.private_bytes_raw()).upper()
    return secret, bech32(_HRP, key.public_key().public_bytes_raw())


def recipient(text: str) -> X25519PublicKey:
    """The public key that `age1...` means.

    Raises:
        SealTrouble: it is none.
    """
    return X25519PublicKey.from_public_bytes(_key(text, _HRP, "a recipient (age1...)"))


def identities(text: str) -> list[X25519PrivateKey]:
    """The secret keys in an identity file, which has one a line, and comments.

    Raises:
        SealTrouble: a line is none, or there is no line.
    """
    lines = [line.strip() for line in text.splitlines()]
    what = "a secret key (AGE-SECRET-KEY-1...)"
    found = [
        X25519PrivateKey.from_private_bytes(_key(line, _SECRET_HRP, what))
        for line in lines
        if line and not line.startswith("#")
    ]
    if not found:
        raise SealTrouble("there is no secret key in it: `gemstead backup --new-key FILE` makes one")
    return found


def _key(text: str, hrp: str, what: str) -> bytes:
    try:
        found, data = bech32_read(text)
    except ValueError:
        found, data = "", b""
    if found != hrp or len(data) != 32:
        raise SealTrouble(f"{text[:12]}... is not {what}: see that it is whole")
    return data


# Sealing.


class Sealing:
    """A file to write to, whose bytes are sealed into another. `close` ends it, and leaves the other open."""

    def __init__(
        self, file: BinaryIO, recipients: Sequence[X25519PublicKey] = (), passphrase: str = "", log_n: int = 0
    ) -> None:
        """Recipients or a passphrase, not both: the format has it so."""
        assert bool(recipients) != bool(passphrase), "recipients, or a passphrase"
        file_key = os.urandom(16)
        if passphrase:
            stanzas = [_for_passphrase(file_key, passphrase, log_n or SCRYPT_LOG_N)]
        else:
            stanzas = [_for_recipient(file_key, one) for one in recipients]
        nonce = os.urandom(16)
        file.write(_header(file_key, stanzas) + nonce)
        self._file, self._chunks = file, _Chunks(file_key, nonce)
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        while len(self._held) > CHUNK:  # the last one is kept back: it is marked
            self._file.write(self._chunks.seal(bytes(self._held[:CHUNK]), last=False))
            del self._held[:CHUNK]
        return len(data)

    def flush(self) -> None:
        """What is held back is not known to be the last yet."""

    def close(self) -> None:
        self._file.write(self._chunks.seal(bytes(self._held), last=True))
        self._held.clear()


def _for_recipient(file_key: bytes, to: X25519PublicKey) -> Stanza:
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    key = _hkdf(ephemeral.exchange(to), share + to.public_bytes_raw(), _X25519)
    return Stanza(("X25519", _b64(share)), ChaCha20Poly1305(key).encrypt(_ZERO, file_key, None))


def _for_passphrase(file_key: bytes, passphrase: str, log_n: int) -> Stanza:
    salt = os.urandom(16)
    sealed = ChaCha20Poly1305(_scrypt(passphrase, salt, log_n)).encrypt(_ZERO, file_key, None)
    return Stanza(("scrypt", _b64(salt), str(log_n)), sealed)


def _header(file_key: bytes, stanzas: Sequence[Stanza]) -> bytes:
    lines = []
    for one in stanzas:
        lines.append("-> " + " ".join(one.args))
        body = _b64(one.body)
        lines += [body[at : at + _COLUMNS] for at in range(0, len(body) + 1, _COLUMNS)]
    said = MAGIC + "\n".join([*lines, "---"]).encode()
    return said + b" " + _b64(_mac(file_key, said)).encode() + b"\n"


# Opening.


def is_sealed(file: BinaryIO) -> bool:
    """Whether a file begins as one of these."""
    return file.read(len(MAGIC)) == MAGIC


def opened(file: BinaryIO, keys: Sequence[X25519PrivateKey] = (), passphrase: str = "") -> Iterator[bytes]:
    """What was sealed, a chunk at a time.

    Raises:
        SealTrouble: it was sealed for others, or is damaged.
    """
    stanzas, said, mac = _read_header(file)
    file_key = _file_key(stanzas, keys, passphrase)
    if not hmac.compare_digest(_mac(file_key, said), mac):
        raise SealTrouble("its header is damaged")
    nonce = file.read(16)
    chunks, data = _Chunks(file_key, nonce), file.read(CHUNK + TAG)
    while True:
        following = file.read(CHUNK + TAG)
        plain = chunks.open(data, last=not following)
        if not plain and chunks.count > 1:
            raise SealTrouble("it is damaged: its end is empty")
        yield plain
        if not following:
            return
        data = following


def _read_header(file: BinaryIO) -> tuple[list[Stanza], bytes, bytes]:
    """The stanzas, what of the header its HMAC is over, and that."""
    said = file.readline(HEADER_MOST)
    if said != MAGIC:
        raise SealTrouble("it is not sealed as age does it")
    stanzas: list[Stanza] = []
    while len(said) < HEADER_MOST:
        line = file.readline(HEADER_MOST)
        if line.startswith(b"--- "):
            return stanzas, said + b"---", _unb64(line[4:].decode("ascii", "replace").rstrip("\n"))
        said += line
        if not re.fullmatch(rb"-> [!-~]+( [!-~]+)*\n", line):
            break
        body = b""
        while len(said) + len(body) < HEADER_MOST:
            body += (piece := file.readline(_COLUMNS + 2))
            if not piece.endswith(b"\n") or len(piece) <= _COLUMNS:
                break
        said += body
        text = body.replace(b"\n", b"").decode("ascii", "replace")
        stanzas.append(Stanza(tuple(line.decode().split()[1:]), _unb64(text)))
    raise SealTrouble("its header is damaged")


def _file_key(stanzas: Sequence[Stanza], keys: Sequence[X25519PrivateKey], passphrase: str) -> bytes:
    by_passphrase = any(one.args[0] == "scrypt" for one in stanzas)
    if by_passphrase and not passphrase:
        raise Locked("it was sealed with a passphrase: say --passphrase REFERENCE")
    if not by_passphrase and not keys:
        raise Locked("it was sealed for a key: say --identity FILE")
    for one in stanzas:
        if one.args[0] == "scrypt" and len(stanzas) == 1 and len(one.args) == 3:
            if (found := _by_passphrase(one, passphrase)) is not None:
                return found
        elif one.args[0] == "X25519" and len(one.args) == 2:
            for key in keys:
                if (found := _by_key(one, key)) is not None:
                    return found
    raise Locked(
        "the passphrase is not the one" if by_passphrase else "it was sealed for other keys than this"
    )


def _by_key(stanza: Stanza, key: X25519PrivateKey) -> bytes | None:
    share = _unb64(stanza.args[1])
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(share))
        wrap = _hkdf(shared, share + key.public_key().public_bytes_raw(), _X25519)
        return ChaCha20Poly1305(wrap).decrypt(_ZERO, stanza.body, None)
    except (InvalidTag, ValueError):
        return None


def _by_passphrase(stanza: Stanza, passphrase: str) -> bytes | None:
    if not re.fullmatch(r"[1-9][0-9]?", stanza.args[2]) or int(stanza.args[2]) > SCRYPT_LOG_N_MOST:
        raise SealTrouble(f"its passphrase is stretched beyond 2^{SCRYPT_LOG_N_MOST}: that is not done here")
    key = _scrypt(passphrase, _unb64(stanza.args[1]), int(stanza.args[2]))
    try:
        return ChaCha20Poly1305(key).decrypt(_ZERO, stanza.body, None)
    except InvalidTag:
        return None


class _Chunks:
    """The chunks of what is sealed, in their order."""

    def __init__(self, file_key: bytes, nonce: bytes) -> None:
        self._cipher = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
        self.count = 0

    def seal(self, plain: bytes, *, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(last), plain, None)

    def open(self, sealed: bytes, *, last: bool) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(last), sealed, None)
        except (InvalidTag, ValueError):
            raise SealTrouble("it is damaged, or was cut") from None

    def _nonce(self, last: bool) -> bytes:
        self.count += 1
        return (self.count - 1).to_bytes(11, "big") + bytes([last])


# Pieces.


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def _scrypt(passphrase: str, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=_SCRYPT + salt, length=32, n=1 << log_n, r=8, p=1).derive(passphrase.encode())


def _mac(file_key: bytes, said: bytes) -> bytes:
    return hmac.digest(_hkdf(file_key, b"", b"header"), said, "sha256")


def _b64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    try:
        data = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise SealTrouble("its header is damaged") from None
    if _b64(data) != text:
        raise SealTrouble("its header is damaged")
    return data


# Bech32 (BIP 173), as age writes keys: without a bound on the length.


def bech32(hrp: str, data: bytes) -> str:
    """Bytes as text with a checksum."""
    values = _bits(data, 8, 5, pad=True)
    check = _polymod([*_spread(hrp), *values, *[0] * 6]) ^ 1
    values += [(check >> 5 * (5 - n)) & 31 for n in range(6)]
    return hrp + "1" + "".join(_LETTERS[value] for value in values)


def bech32_read(text: str) -> tuple[str, bytes]:
    """What stands before the bytes, and the bytes.

    Raises:
        ValueError: it is none, or has a slip of the pen.
    """
    if text not in (text.lower(), text.upper()):
        raise ValueError("mixed case")
    hrp, one, rest = text.lower().rpartition("1")
    values = [_LETTERS.index(letter) for letter in rest]
    if not hrp or not one or len(values) < 6 or _polymod([*_spread(hrp), *values]) != 1:
        raise ValueError("checksum")
    return hrp, bytes(_bits(values[:-6], 5, 8, pad=False))


def _spread(hrp: str) -> list[int]:
    return [ord(letter) >> 5 for letter in hrp] + [0] + [ord(letter) & 31 for letter in hrp]


def _polymod(values: Sequence[int]) -> int:
    generators = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for n, generator in enumerate(generators):
            check ^= generator if top >> n & 1 else 0
    return check


def _bits(values: Sequence[int], width: int, to: int, *, pad: bool) -> list[int]:
    held = bits = 0
    found = []
    for value in values:
        held, bits = held << width | value, bits + width
        while bits >= to:
            bits -= to
            found.append(held >> bits & ((1 << to) - 1))
    left = held & ((1 << bits) - 1)
    if pad and bits:
        found.append(left << (to - bits))
    elif not pad and (bits >= width or left):
        raise ValueError("padding")
    return found
