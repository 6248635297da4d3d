from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.ledger import keyform

KEY = keyform.mint().encode()
LETTERS = keyform.ALPHABET.encode()


def test_a_new_key_is_well_formed_and_never_the_same():
    keys = {keyform.mint() for _ in range(500)}
    assert len(keys) == 500
    assert all(len(key) == 40 and keyform.is_well_formed(key.encode()) for key in keys)
    assert len({keyform.key_id_of(key) for key in keys}) == 500


def crc32_by_the_book(text: bytes) -> int:
    rest = 0xFFFFFFFF
    for byte in text:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0xEDB88320 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


@given(st.binary(max_size=40))
def test_the_checksum_is_crc32_in_base_62(body):
    letters = keyform.checksum(body)
    assert len(letters) == 6
    number = 0
    for letter in letters:
        number = number * 62 + keyform.ALPHABET.index(letter)
    assert number == crc32_by_the_book(body)


@given(st.integers(0, 39), st.integers(0, 255))
def test_any_one_mistyped_character_is_refused(place, letter):
    typo = KEY[:place] + bytes([letter]) + KEY[place + 1 :]
    assert keyform.is_well_formed(typo) == (typo == KEY)


@given(st.integers(0, 38))
def test_any_two_swapped_neighbours_are_refused(place):
    swapped = KEY[:place] + KEY[place : place + 2][::-1] + KEY[place + 2 :]
    assert keyform.is_well_formed(swapped) == (swapped == KEY)


@given(st.binary(max_size=80))
def test_noise_is_no_key(noise):
    assert not keyform.is_well_formed(noise)


@given(st.integers(0, 39), st.sampled_from(LETTERS))
def test_a_letter_lost_or_added_is_refused(place, letter):
    assert not keyform.is_well_formed(KEY[:place] + KEY[place + 1 :])
    assert not keyform.is_well_formed(KEY[:place] + bytes([letter]) + KEY[place:])
