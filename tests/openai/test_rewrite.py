"""Only the model's name changes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gemstead.openai.rewrite import with_model


def test_nested_values_keep_their_bytes_and_order():
    body = b'{"z": 1.50, "model" : "a", "messages":[ {"model": "b" , "n":1e2}],"x":"\\u00e9"}'
    assert with_model(body, 'q"é') == (
        b'{"z":1.50,"model":"q\\"\xc3\xa9","messages":[ {"model": "b" , "n":1e2}],"x":"\\u00e9"}'
    )


def test_no_second_model_is_left():
    body = b'{"model":"a","messages":[],"mod\\u0065l":"b","model":"c"}'
    assert with_model(body, "n") == b'{"model":"n","messages":[]}'


def test_a_missing_model_is_added():
    assert with_model(b'{"prompt":"hi"}', "n") == b'{"prompt":"hi","model":"n"}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON), st.text(st.characters(codec="utf-8")))
def test_everything_else_means_the_same(fields, name):
    body = json.dumps(fields, ensure_ascii=False).encode()
    assert json.loads(with_model(body, name)) == fields | {"model": name}
