"""From text to Spec: what is accepted, and that every mistake is said with its place and a way out."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gemstead.spec.fault import SpecError
from gemstead.spec.load import load, parse
from gemstead.spec.model import Spec


def faults(text: str, *overrides: str, **environ: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(text, overrides=overrides, environ=environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "---\n", "{}", "version: 1", "\ufeffversion: 1", "gateway:\n"]
)
def test_saying_nothing_is_the_default(text: str) -> None:
    assert parse(text) == Spec()


def test_a_field_is_read_and_the_rest_stays_default() -> None:
    spec = parse("models:\n  - name: gemma4:26b\n    context: 8_192\ngateway:\n  keys: off\n")
    assert (spec.models[0].name, spec.models[0].context, spec.gateway.keys) == ("gemma4:26b", 8192, "off")
    assert spec.admin == Spec().admin


def test_every_fault_is_said_at_once_in_the_order_of_the_file() -> None:
    text = """\
models:
  - name: gemma-4-e2b
    contxt: 5
    context: 999999999
    thinking: on
gateway:
  listen: here
  deadlines: {connect_s: -1}
tsl: 1
"""
    assert faults(text) == [
        "gemstead.yaml:3 models[0].contxt: is not a field here; did you mean `context`?",
        "gemstead.yaml:4 models[0].context: 999999999 is too large: at most 1048576",
        "gemstead.yaml:5 models[0].thinking: should be true or false, not the text `on`",
        "gemstead.yaml:7 gateway.listen: `here` is no address; "
        "write host:port, such as 127.0.0.1:4367, :4367 or [::1]:4367",
        "gemstead.yaml:8 gateway.deadlines.connect_s: -1 is too small: it must be more than 0",
        f"gemstead.yaml:9 tsl: is not a field here; known here: {', '.join(Spec.model_fields)}",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "models: [{n_ctx: 4096}]",
            "gemstead.yaml:1 models[0].n_ctx: is not a field here; did you mean `context`?",
        ),
        (
            "port: 9000",
            "gemstead.yaml:1 port: is not a field here; did you mean gateway.listen or admin.listen?",
        ),
        (
            "gateway: {port: 9000}",
            "gemstead.yaml:1 gateway.port: is not a field here; did you mean `listen`?",
        ),
        (
            "gateway:\n  context: 1",
            "gemstead.yaml:2 gateway.context: is not a field here; did you mean models[].context?",
        ),
        ("models: [{slots: '4'}]", "slots: should be a whole number, not the text `4`; leave out the quotes"),
        ("models: [{slots: true}]", "slots: should be a whole number, not true"),
        ("models: [{slots: 1.5}]", "slots: should be a whole number, not 1.5"),
        ("models: {name: x}", "models: should be a list, not a section; begin each entry with `- `"),
        ("models: []", "models: is an empty list: at least one entry is needed"),
        (
            "models:\n  -\n",
            "gemstead.yaml:2 models[0]: should be a section with fields of its own, not nothing",
        ),
        ("gateway: 5", "gateway: should be a section with fields of its own, not 5"),
        ("gateway: {keys: of}", "gateway.keys: should be required or off, not `of`; did you mean `off`?"),
        ("version: 2", "version: should be 1, not 2; this Gemstead reads version 1"),
        ("state_dir: 5", "state_dir: should be text, not 5; put it in quotes"),
        ("models: [{name: ''}]", "models[0].name: is empty"),
        ('models: [{name: "a\\nb"}]', "models[0].name: `a b` holds a control character; delete it"),
        ("state_dir: ''", "state_dir: is empty"),
        (
            "gateway: {cors_origins: ['https://a.example/']}",
            "cors_origins[0]: `https://a.example/` is no origin",
        ),
        ("gateway: {tls: {key: k.pem}}", "gemstead.yaml:1 gateway.tls.certificate: is missing"),
        ("gateway: {deadlines: {drain_s: 1e9}}", "drain_s: 1000000000.0 is too large: at most 86400"),
    ],
)
def test_a_mistake_is_said_in_plain_words(text: str, said: str) -> None:
    assert said in faults(text)[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "gateway:\n\tlisten: x",
            "gemstead.yaml:2: is indented with a tab, which YAML does not allow; use spaces",
        ),
        (
            "gateway:\n  listen: [::1]:80",
            "gemstead.yaml:2: an address in brackets reads as a list; put it in quotes",
        ),
        (
            "version: 1\nversion: 1",
            "gemstead.yaml:2 version: is given twice, first in line 1; keep one of them",
        ),
        ("- version: 1", "gemstead.yaml:1: does not hold fields"),
        ("hello", "gemstead.yaml:1: does not hold fields"),
        (
            "---\nversion: 1\n---\nversion: 1\n",
            "gemstead.yaml:3: a second document begins here; delete the line `---`",
        ),
        ("hub: *x", "gemstead.yaml:1: `*` begins an alias, and none of that name is defined"),
        ("models: &m [*m]", "gemstead.yaml:1 models[0]: refers to itself"),
        ("hub: !!python/object/apply:os.system [ls]", "gemstead.yaml:1 hub"),
        ("hub: !!binary aGk=", "has the YAML tag `tag:yaml.org,2002:binary`; leave the tag out"),
        ("a: b: c", "gemstead.yaml:1: a field is not expected here; check the indentation"),
        ("a: 'b", "gemstead.yaml:1: is not YAML here"),
        ("a: \x07", "gemstead.yaml:1: holds a control character"),
        ("[" * 5000, "gemstead.yaml: is nested too deeply"),
        ("? [a]\n: 1", "gemstead.yaml:1: a field's name must be plain text"),
        ("a: " + "x" * 1_100_000, "gemstead.yaml: is larger than 1 MiB"),
    ],
)
def test_what_is_no_plain_yaml_is_explained(text: str, said: str) -> None:
    assert said in "\n".join(faults(text))


def test_an_anchor_bomb_is_refused_before_it_unfolds() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    assert any("unfolds into more than 20000 values" in line for line in faults("\n".join(lines)))


def test_anchors_and_merge_keys_are_understood() -> None:
    spec = parse("models:\n  - &base {name: a, file: a.gguf, context: 512}\n  - {<<: *base, name: b}\n")
    assert [(m.name, m.file, m.context) for m in spec.models] == [("a", "a.gguf", 512), ("b", "a.gguf", 512)]


SECRET = "sk-proj-verysecretvalue"


@pytest.mark.parametrize(
    "text",
    [
        f"models: [{{name: x, endpoints: [{{url: 'http://h:1', api_key: {SECRET}}}]}}]",
        f"models: [{{name: x, endpoints: [{{url: 'http://me:{SECRET}@h:1'}}]}}]",
        f"models: [{{name: x, endpoints: [{{url: '{SECRET}'}}]}}]",
        f"api_key: {SECRET}",
        f"gateway: {{keys: {SECRET}}}",
        f"gateway: {{listen: {SECRET}}}",
        f"api_key: '{SECRET}",
        f"api_key: {SECRET}: x",
        f"gateway: [{SECRET}]",
        f"models: [{{slots: {SECRET}}}]",
    ],
)
def test_a_secret_pasted_as_a_value_is_never_repeated(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert "verysecret" not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_pasted_secret_is_told_what_to_write_instead() -> None:
    text = f"models:\n- name: x\n  endpoints:\n  - url: http://h:1\n    api_key: {SECRET}\n"
    assert faults(text) == [
        "gemstead.yaml:5 models[0].endpoints[0].api_key: holds a value where only a reference to a secret belongs; "
        "use env:NAME, file:PATH, vault:, aws-sm:, gcp-sm: or k8s:"
    ]


def test_a_path_of_a_model_file_may_stand_as_the_name() -> None:
    model = parse("models: [{name: /models/my-gemma.gguf}]").models[0]
    assert (model.name, model.file) == ("my-gemma", "/models/my-gemma.gguf")


@given(st.text(max_size=300))
def test_no_text_does_anything_but_load_or_say_what_is_wrong(text: str) -> None:
    try:
        parse(text)
    except SpecError as error:
        assert error.faults
        assert all(str(fault) for fault in error.faults)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["models", "name", "context", "gateway", "listen", "tls", "hub", "endpoints", "url", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_like)
def test_no_shape_of_values_breaks_the_loader(value: object) -> None:
    try:
        parse(yaml.safe_dump(value))
    except SpecError as error:
        assert error.faults


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_fault_names_its_line_wherever_it_stands(before: int, between: int) -> None:
    text = "#\n" * before + "gateway:\n" + "  #\n" * between + "  nonsense: 1\n"
    assert faults(text)[0].startswith(f"gemstead.yaml:{before + between + 2} gateway.nonsense:")


def test_the_file_has_the_name_it_was_given() -> None:
    with pytest.raises(SpecError, match=r"^ops/prod.yaml:1 hubb: "):
        parse("hubb: true", "ops/prod.yaml")


def test_later_checks_can_ask_where_a_field_was_said() -> None:
    loaded = load("models:\n  - name: gemma-4-e2b\n    slots: 2\n", overrides=["models[0].threads=3"])
    places = {path[-1]: str(place) for path, place in loaded.places.items() if path}
    assert places["slots"] == "gemstead.yaml:3"
    assert places["threads"] == "--set"
