"""`--set` over environment over file, and nothing passed over in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.spec.fault import SpecError, written
from gemstead.spec.fields import known_paths
from gemstead.spec.load import parse
from gemstead.spec.overrides import parse_path, variables

FILE = "models:\n  - name: gemma-4-e2b\n    context: 1000\ngateway:\n  listen: :1000\n"


def faults(*overrides: str, text: str = "", **environ: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(text, overrides=overrides, environ=environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("environ", "options", "context"),
    [
        ({}, [], 1000),
        ({"GEMSTEAD_MODELS__0__CONTEXT": "2000"}, [], 2000),
        ({"GEMSTEAD_MODELS__0__CONTEXT": "2000"}, ["models[0].context=3000"], 3000),
        ({}, ["models[0].context=3000", "models.0.context=4000"], 4000),
        ({"GEMSTEAD_MODELS__0__CONTEXT": ""}, [], 1000),
        ({}, ["models[0].context=null"], None),
    ],
)
def test_set_wins_over_environment_which_wins_over_the_file(
    environ: dict[str, str], options: list[str], context: int | None
) -> None:
    assert parse(FILE, overrides=options, environ=environ).models[0].context == context


@pytest.mark.parametrize(
    ("option", "read", "value"),
    [
        ("gateway.listen=:9000", lambda spec: spec.gateway.listen, ":9000"),
        ("gateway.listen=[::1]:9000", lambda spec: spec.gateway.listen, "[::1]:9000"),
        ("gateway.keys=off", lambda spec: spec.gateway.keys, "off"),
        ("hub=false", lambda spec: spec.hub, False),
        ("state-dir=/srv/a=b", lambda spec: spec.state_dir, "/srv/a=b"),
        ("state_dir=2026", lambda spec: spec.state_dir, "2026"),
        ("models[0].name=123.gguf", lambda spec: spec.models[0].file, "123.gguf"),
        ("models[0].aliases=[a, b]", lambda spec: spec.models[0].aliases, ("a", "b")),
        ("models[0].endpoints[0].url=http://h:1", lambda spec: spec.models[0].endpoints[0].url, "http://h:1"),
        ("gateway.cors_origins[0]=*", lambda spec: spec.gateway.cors_origins, ("*",)),
        ("gateway.deadlines.drain_s=5", lambda spec: spec.gateway.deadlines.drain_s, 5.0),
    ],
)
def test_a_value_is_typed_like_the_field_it_is_for(option: str, read, value: object) -> None:  # type: ignore[no-untyped-def]
    assert read(parse("", overrides=[option])) == value


def test_the_next_entry_of_a_list_can_be_added() -> None:
    spec = parse(FILE, overrides=["models[1].name=other", "models[1].file=/other.gguf"])
    assert [model.name for model in spec.models] == ["gemma-4-e2b", "other"]


def test_state_dir_has_its_usual_variable() -> None:
    assert parse("", environ={"GEMSTEAD_STATE_DIR": "/var/lib/gemstead"}).state_dir == "/var/lib/gemstead"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nonsense"], "--set: has no `=`; write --set key=value"),
        (["hub"], "--set: has no `=`; write --set key=value"),
        (["=1"], "--set: `` is not a path of a field; write it like gateway.listen or models[0].context"),
        (["a..b=1"], "--set: `a..b` is not a path of a field"),
        (["gateway.lisen=:1"], "--set gateway.lisen: is not a field here; did you mean `listen`?"),
        (
            ["models[0].context=many"],
            "--set models[0].context: should be a whole number, not the text `many`",
        ),
        (
            ["models[4].context=1"],
            "--set models[4].context: models has 1 entries, so there is no [4]; the next one is [1]",
        ),
        (
            ["gateway.listen.port=1"],
            "--set gateway.listen.port: gateway.listen is a single value; check the path",
        ),
        (
            ["models.context=1"],
            "--set models.context: models is a list; write an index, as in models[0].context",
        ),
        (
            ["models[0].endpoints[0].api_key=sk-secret", "models[0].endpoints[0].url=http://h"],
            "use env:NAME, file:PATH, vault:, aws-sm:, gcp-sm: or k8s:",
        ),
    ],
)
def test_a_wrong_option_is_named(options: list[str], said: str) -> None:
    lines = faults(*options, text=FILE)
    assert said in lines[0]
    assert "sk-secret" not in lines[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GEMSTEAD_GATEWAY_LISTEN", "is no setting of Gemstead; did you mean GEMSTEAD_GATEWAY__LISTEN?"),
        (
            "GEMSTEAD_MODELS__0__CONTXT",
            "is no setting of Gemstead; did you mean GEMSTEAD_MODELS__0__CONTEXT?",
        ),
        ("GEMSTEAD_STATEDIR", "is no setting of Gemstead; did you mean GEMSTEAD_STATE_DIR?"),
        ("GEMSTEAD_CONFG", "is no setting of Gemstead; did you mean GEMSTEAD_CONFIG?"),
        ("GEMSTEAD_ZZZZZZZZZZZZ", "is no setting of Gemstead; unset it"),
    ],
)
def test_a_variable_that_is_no_setting_is_a_fault(name: str, said: str) -> None:
    assert faults(**{name: "secret-value"}) == [f"{name}: {said}"]


def test_a_wrong_variable_is_named() -> None:
    assert faults(GEMSTEAD_MODELS__0__CONTEXT="many") == [
        "GEMSTEAD_MODELS__0__CONTEXT models[0].context: should be a whole number, not the text `many`"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "GEMSTEAD_CONFIG",
        "GEMSTEAD_SERVICE_HOST",
        "GEMSTEAD_SERVICE_PORT_HTTP",
        "GEMSTEAD_PORT",
        "GEMSTEAD_PORT_4367_TCP_ADDR",
        "GEMSTEAD_GATEWAY_PORT_4367_TCP",
    ],
)
def test_variables_of_others_are_passed_over(name: str) -> None:
    parse("", environ={name: "tcp://10.0.0.1:4367"})


def test_a_variable_that_the_file_refers_to_is_no_mistake() -> None:
    text = "models: [{name: x, endpoints: [{url: 'http://h', api_key: env:GEMSTEAD_PARTNER_KEY}]}]"
    assert (
        parse(text, environ={"GEMSTEAD_PARTNER_KEY": "s"}).models[0].endpoints[0].api_key
        == "env:GEMSTEAD_PARTNER_KEY"
    )


@given(st.sampled_from(sorted(known_paths())))
def test_every_field_can_be_set_from_outside(path: str) -> None:
    indexed = path.replace("models", "models[0]", 1) if path.startswith("models.") else path
    steps = parse_path(indexed.replace("endpoints.", "endpoints[0]."))
    assert steps is not None
    variable = "GEMSTEAD_" + "__".join(str(step).upper() for step in steps)
    try:
        parse("", environ={variable: "{nonsense: [}"})
    except SpecError as error:
        assert all(fault.place.source == variable for fault in error.faults)
        assert "no setting" not in str(error)


steps = st.lists(st.from_regex(r"[a-z_]{1,5}", fullmatch=True) | st.integers(0, 99), min_size=1, max_size=5)


@given(st.from_regex(r"[a-z]{1,5}", fullmatch=True), steps)
def test_a_written_path_reads_back(first: str, rest: list[str | int]) -> None:
    path = (first, *rest)
    assert parse_path(written(path)) == path


def test_secrets_by_the_names_of_the_documentation_are_no_mistakes_beside_another_file() -> None:
    root = Path(__file__).parents[2]
    pages = [*root.glob("docs/**/*.md"), *root.glob("src/gemstead/spec/*.py")]
    named = {name for page in pages for name in re.findall(r"env:(GEMSTEAD_[A-Z0-9_]+)", page.read_text())}
    assert named >= {"GEMSTEAD_LIMITS_URL", "GEMSTEAD_STORE_SECRET"}
    assert variables(dict.fromkeys(named, "x"), (), ()) == ([], [])
