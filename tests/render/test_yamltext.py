"""What is written is read back as it was, by YAML's own reader, whatever the values are."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from gemstead.render.because import Because, plain
from gemstead.render.yamltext import document, scalar, stream

TEXT = st.one_of(
    st.text(),
    st.sampled_from(
        [
            "on",
            "no",
            "y",
            "1:30",
            "0o17",
            "1e3",
            "1_000",
            "-",
            "? a",
            "# no",
            "a: b",
            "~",
            "",
            " x",
            "a\nb",
            "a\n\n b\n",
        ]
    ),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
REASONS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=200)


def _nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(TEXT, inner, max_size=4),
        st.builds(Because, inner, REASONS),
    )


VALUES = st.recursive(SCALARS, _nested, max_leaves=12)


@given(VALUES, REASONS)
def test_what_is_written_is_read_back(value: object, head: str) -> None:
    assert yaml.safe_load(document(value, head=head)) == plain(value)


@given(st.lists(st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), min_size=1, max_size=3))
def test_documents_in_one_file_stay_apart(values: list[dict[str, object]]) -> None:
    assert list(yaml.safe_load_all(stream(values))) == [plain(value) for value in values]


def test_what_some_reader_takes_for_a_number_is_quoted() -> None:
    """Go's reader takes 1e3 for a number and PyYAML does not; PyYAML takes 1:30 for one and Go's does not."""
    for text in ("1e3", "1:30", "0o17", "0x1F", "1_000", ".5", "12"):
        assert scalar(text) == f"'{text}'"


def test_a_reason_stands_above_its_value() -> None:
    value = {"a": Because(3, "three is enough"), "b": [Because({"c": 1, "d": 2}, "the only one")]}
    assert document(value, head="Made here") == (
        "# Made here\n# three is enough\na: 3\nb:\n  # the only one\n  - c: 1\n    d: 2\n"
    )
