"""The flag lists: what each version knows, as its own parser says."""

from __future__ import annotations

import pytest

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.engines.flaglist import FILES, check, flag_list, parse, read_arguments
from gemstead.refused import Refused


def command(engine: str, version: str, *words: str, **variables: str) -> Command:
    flag = Flag(words[0], words[1:] or None, "because", "a test")
    env = tuple(Variable(name, value, "because", "a test") for name, value in variables.items())
    return Command(engine, version, ("program",), (flag,), env)


@pytest.mark.parametrize(
    ("engine", "options"), [("vllm", 318), ("sglang", 532), ("llamacpp", 258)]
)  # the counts that the lists themselves state
def test_every_option_of_a_list_is_read(engine, options):
    known = flag_list(engine)
    assert len({id(option) for option in known.options.values()}) == pytest.approx(options, abs=7)


@pytest.mark.parametrize("engine", sorted(FILES))
def test_every_engine_has_a_list_with_its_source(engine):
    known = flag_list(engine)
    assert len(known.source) > 40 and known.options and known.known


@pytest.mark.parametrize(
    ("engine", "version", "words"),
    [
        ("vllm", "0.32.0", ("--max-model-len", "32768")),
        ("vllm", "0.32.0", ("-tp", "2")),
        ("vllm", "0.32.0", ("--no-async-scheduling",)),
        ("vllm", "0.21.0", ("--no-async-scheduling",)),
        ("vllm", "0.32.0", ("--allowed-media-domains", "a.example", "b.example")),
        ("vllm", "0.33.0", ("--max-num-queued-reqs", "10")),
        ("vllm", "0.26.0", ("--calculate-kv-scales",)),
        ("sglang", "0.5.23", ("--tp-size", "2")),
        ("llamacpp", "11549", ("-ngl", "99")),
        ("llamacpp", "11549", ("-fa", "on")),
        ("llamacpp", "11549", ("--temp", "-1")),
        ("tensorrt_llm", "1.2", ("--tp_size", "2")),
    ],
)
def test_what_a_version_knows_passes(engine, version, words):
    check(command(engine, version, *words))


@pytest.mark.parametrize(
    ("engine", "version", "words", "said"),
    [
        ("vllm", "0.32.0", ("--max-model-lenght", "1"), "did you mean --max-model-len?"),
        ("vllm", "0.32.0", ("--max-model", "1"), "does not know the flag --max-model;"),
        ("vllm", "0.32.0", ("--swap-space", "4"), "vllm 0.32.0 does not know the flag --swap-space"),
        ("vllm", "0.26.0", ("--max-num-queued-reqs", "10"), "first seen in 0.29.0"),
        ("vllm", "0.28.1", ("--max-num-queued-reqs", "10"), "first seen in 0.29.0"),
        ("vllm", "0.32.0", ("--calculate-kv-scales",), "last seen in 0.26.0"),
        ("vllm", "0.32.0", ("--max-model-len",), "takes one value, not 0"),
        ("vllm", "0.32.0", ("--headless", "yes"), "takes no value"),
        ("vllm", "0.32.0", ("--dtype", "float8"), "cannot be `float8`; it is one of auto, bfloat16"),
        ("llamacpp", "11549", ("-fa", "maybe"), "it is one of on, off, auto"),
        ("sglang", "0.5.12", ("--default-chat-template-kwargs", "{}"), "first seen in 0.5.23"),
        ("vllm", "latest", ("--port", "1"), "is no engine version"),
    ],
)
def test_what_it_does_not_know_is_refused_with_what_is_known(engine, version, words, said):
    with pytest.raises(Refused) as refused:
        check(command(engine, version, *words))
    assert said in refused.value.message


@pytest.mark.parametrize("name", ["VLLM_GPU_MEMORY_UTILIZATION", "VLLM_MAX_NUM_BATCHED_TOKENS"])
def test_a_variable_that_the_engine_never_reads_is_refused(name):
    with pytest.raises(Refused, match="never reads"):
        check(command("vllm", "0.32.0", "--port", "1", **{name: "1"}))
    check(command("vllm", "0.32.0", "--port", "1", VLLM_MEDIA_URL_ALLOW_REDIRECTS="0"))


def test_arguments_are_read_as_the_engine_reads_them():
    known = flag_list("vllm", "0.32.0")
    words = ["--host", "::1", "--async-scheduling", "--port=8000", "--allowed-media-domains", "a", "b"]
    assert read_arguments(known, words) == {
        "--host": ("::1",),
        "--async-scheduling": (),
        "--port": ("8000",),
        "--allowed-media-domains": ("a", "b"),
    }


def test_versions_are_compared_by_number():
    assert parse("0.5.9") < parse("0.5.11") == parse("v0.5.11+cu129") and parse("b11549") == (11549,)
