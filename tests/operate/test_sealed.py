"""What is sealed is opened by whoever it was sealed for, here and by the `age` command, and by nobody else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.operate.sealed import (
    CHUNK,
    Sealing,
    SealTrouble,
    bech32,
    bech32_read,
    identities,
    is_sealed,
    new_identity,
    opened,
    recipient,
)

SECRET, PUBLIC = new_identity()
OTHER, OTHER_PUBLIC = new_identity()


def sealed(data: bytes, *to: str, passphrase: str = "", cut: int = CHUNK) -> bytes:
    file = io.BytesIO()
    sealing = Sealing(file, [recipient(one) for one in to], passphrase, log_n=10)
    for at in range(0, len(data), cut):
        sealing.write(data[at : at + cut])
    sealing.close()
    return file.getvalue()


def open_it(text: bytes, secret: str = "", passphrase: str = "") -> bytes:
    return b"".join(opened(io.BytesIO(text), identities(secret) if secret else [], passphrase))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 200_000])
def test_what_was_sealed_comes_back_whatever_its_size_and_however_it_was_cut(size):
    data = os.urandom(size)
    for cut in (1000, CHUNK, 10**6):
        text = sealed(data, PUBLIC, cut=cut)
        assert is_sealed(io.BytesIO(text)) and (size < 32 or data not in text)
        assert open_it(text, SECRET) == data
    assert open_it(sealed(data, passphrase="horse"), passphrase="horse") == data


def test_each_recipient_opens_it_and_nobody_else():
    text = sealed(b"secret", PUBLIC, OTHER_PUBLIC)
    assert open_it(text, SECRET) == open_it(text, f"# mine\n\n{OTHER}\n") == b"secret"
    stranger, _ = new_identity()
    for args, words in (
        ({"secret": stranger}, "other keys"),
        ({"passphrase": "horse"}, "--identity"),
        ({}, "--identity"),
    ):
        with pytest.raises(SealTrouble, match=words):
            open_it(text, **args)
    text = sealed(b"secret", passphrase="horse")
    for args, words in (({"passphrase": "house"}, "is not the one"), ({"secret": SECRET}, "--passphrase")):
        with pytest.raises(SealTrouble, match=words):
            open_it(text, **args)


@given(st.data())
def test_no_bit_can_be_changed_and_nothing_cut_off_unseen(data):
    plain = b"x" * (CHUNK + 100)
    text = bytearray(WHOLE)
    place = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        text[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del text[place:]
    with pytest.raises(SealTrouble):
        assert open_it(bytes(text), SECRET) != plain


WHOLE = sealed(b"x" * (CHUNK + 100), PUBLIC)


def test_chunks_keep_their_places():
    text = sealed(b"a" * CHUNK + b"b" * CHUNK + b"c", PUBLIC)
    size = CHUNK + 16
    start = len(text) - 2 * size - 17
    swapped = text[:start] + text[start + size : start + 2 * size] + text[start : start + size] + text[-17:]
    cut_at_a_chunk = text[: start + size]
    for damaged in (swapped, cut_at_a_chunk, text + b"x"):
        with pytest.raises(SealTrouble, match="damaged"):
            open_it(damaged, SECRET)


def test_a_passphrase_that_would_be_stretched_for_ever_is_not_tried():
    text = sealed(b"x", passphrase="horse").replace(b" 10\n", b" 30\n", 1)
    with pytest.raises(SealTrouble, match="stretched"):
        open_it(text, passphrase="horse")


def test_keys_with_a_slip_of_the_pen_are_refused():
    for text in (PUBLIC[:-1], PUBLIC[:-1] + "b", "age1", "", PUBLIC.replace("1", "I", 1), SECRET):
        with pytest.raises(SealTrouble, match="not a recipient"):
            recipient(text)
    for text in (SECRET[:-2] + "QQ", PUBLIC):
        with pytest.raises(SealTrouble, match="not a secret key"):
            identities(text)
    with pytest.raises(SealTrouble, match="no secret key"):
        identities("# nothing\n")


@given(st.binary(max_size=60))
def test_bech32_comes_back(data):
    assert bech32_read(bech32("age", data)) == ("age", data)
    assert bech32_read(bech32("age", data).upper()) == ("age", data)


@pytest.mark.parametrize("text", ["A12UEL5L", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"])
def test_bech32_is_that_of_bip_173(text):
    hrp, data = bech32_read(text)
    assert hrp in ("a", "abcdef") and (
        not data or data == bytes.fromhex("00443214c74254b635cf84653a56d7c675be77df")
    )


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_age_opens_what_we_seal_and_we_open_what_age_seals(tmp_path):
    data = os.urandom(CHUNK * 2 + 5)
    (tmp_path / "key").write_text(f"{SECRET}\n")
    (tmp_path / "ours").write_bytes(sealed(data, OTHER_PUBLIC, PUBLIC))
    done = subprocess.run(["age", "-d", "-i", tmp_path / "key", tmp_path / "ours"], capture_output=True)
    assert done.returncode == 0 and done.stdout == data, done.stderr
    done = subprocess.run(["age", "-r", PUBLIC, "-r", OTHER_PUBLIC], input=data, capture_output=True)
    assert open_it(done.stdout, SECRET) == open_it(done.stdout, OTHER) == data
    made = subprocess.run(["age-keygen"], capture_output=True, text=True)
    public = made.stdout.split("public key: ")[1].split()[0]
    assert open_it(sealed(b"x", public), made.stdout) == b"x"
