"""Sizes read from safetensors: the index, and the header of one file."""

from __future__ import annotations

import json

import pytest

from gemstead.plan import weights
from gemstead.refused import Refused


def file(tensors: dict[str, object]) -> bytes:
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header


TENSORS = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]},
    "b": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]},
}


def test_an_index_says_the_whole():
    assert weights.from_index('{"metadata": {"total_size": 62546177752}, "weight_map": {}}') == 62_546_177_752
    assert weights.from_index('{"metadata": {"total_size": 12.0}}') == 12


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"metadata": {"total_size": "big"}}', '{"metadata": {"total_size": true}}']
)
def test_what_is_no_index_is_refused(text):
    with pytest.raises(Refused):
        weights.from_index(text)


def test_a_header_says_where_the_last_tensor_ends():
    assert weights.from_header(file(TENSORS) + b"rest of the file") == 32
    assert weights.from_header(file({"__metadata__": {}})) == 0


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GGUF\x03\x00\x00\x00",
        file(TENSORS)[:-3],
        file({"a": {}}),
        file({"a": 3}),
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
    ],
)
def test_what_is_no_safetensors_file_is_refused(head):
    with pytest.raises(Refused):
        weights.from_header(head)
