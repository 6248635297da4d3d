"""A user's own file is taken whole or not at all, and every fault is said with its line."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.catalogue import built_in, overlaid
from gemstead.catalog.known_bad import consult
from gemstead.catalog.overlay import Overlay, parse
from gemstead.catalog.prices import typical
from gemstead.spec.fault import SpecError

HEAD = "catalogue: 1\nas_of: 2026-11-01\nsource: contract 4711\n"
WHOLE = (
    HEAD
    + """\
rent:
  - {gpu: H100, usd_hour: 2.10, who: our contract}
  - {gpu: my-card, usd_hour: 1, read: 2026-10, kind: reserved}
buy:
  - {gpu: RTX PRO 6000, usd: 8000}
api:
  - {provider: DeepInfra, model: gemma-4-31b, in: 0.11, out: 0.3}
accelerators:
  - {id: my-card, like: l40s, memory_mib: 49140, aliases: [Mine]}
  - {id: l4, memory_mib: 22478}
  - {id: new, vendor: nvidia, sm: 90, memory_mib: 50000, bandwidth_gbs: 900, tflops: {bf16: 100}, mig: {1g.12gb: 4}}
checkpoints:
  - {repo: acme/gemma-31b-ours, like: w4a16, model: 31B, weights_gib: 18.2}
  - {repo: acme/e2b, model: e2b, format: fp8-ours, bits: fp8, weights_gib: 7.1, engines: [vllm]}
engines:
  - {engine: vllm, latest_seen: 0.34.0, least: {mtp: 0.22.0}}
known_bad:
  - {id: ours-1, engine: vllm, versions: "==0.33.0", symptom: hangs, remedy: use 0.34, severity: stops}
ignore: [vllm-attention-backend]
"""
)


def faults(text: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        parse(text, "mine.yaml")
    return str(error.value).splitlines()


def test_what_the_file_says_counts_everywhere() -> None:
    ours = overlaid(built_in(), parse(WHOLE))
    assert typical(ours.rents_of("h100-sxm")) == 2.10
    assert ours.rents_of("my-card")[0].read == datetime.date(2026, 10, 1)
    assert ours.accelerator("RTX PRO 6000").purchase_usd == 8000
    assert ours.api_of("31B")[0].provider == "DeepInfra"
    assert [one.provider.casefold() for one in ours.api_of("31B")].count("deepinfra") == 1
    mine = ours.accelerator("mine")
    assert (mine.memory_mib, mine.bandwidth_gbs, mine.aliases) == (49_140, 864, ("Mine",))
    assert (ours.accelerator("L4").memory_mib, ours.accelerator("L4").bandwidth_gbs) == (22_478, 300)
    assert ours.accelerator("new/1g.12gb").memory_mib == 50_000 // 4 - 512
    assert ours.checkpoint("acme/gemma-31b-ours", "31B").engines == ("vllm", "sglang")
    assert ours.checkpoint("acme/e2b", "E2B").weights_gib == 7.1
    vllm = next(one for one in ours.engines if one.engine == "vllm")
    assert (vllm.latest_seen, vllm.least["mtp"], vllm.least["12B"]) == ("0.34.0", "0.22.0", "0.23.0")
    assert "ours-1" in {entry.id for entry in consult("vllm", "0.33.0", among=ours.known_bad)}
    assert "vllm-attention-backend" not in {entry.id for entry in ours.known_bad}


def test_what_the_file_does_not_say_stays() -> None:
    there, ours = built_in(), overlaid(built_in(), parse(WHOLE))
    assert len(ours.accelerators) == len(there.accelerators) + 2
    assert len(ours.checkpoints) == len(there.checkpoints) + 2
    assert len(ours.rents) == len(there.rents) + 2
    assert len(ours.known_bad) == len(there.known_bad)  # one more, one ignored
    assert ours.accelerator("H200") == there.accelerator("H200")
    assert built_in().accelerator("L4").memory_mib == 23_034


def test_an_empty_overlay_changes_nothing() -> None:
    there, ours = built_in(), overlaid(built_in(), parse(HEAD))
    assert parse(HEAD).counts == {}
    for part in ("accelerators", "checkpoints", "rents", "api", "engines", "known_bad"):
        assert getattr(ours, part) == getattr(there, part)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "mine.yaml:1: does not hold fields; begin it with `catalogue: 1`"),
        ("[]", "does not hold fields"),
        ("as_of: 2026-11-01", "catalogue: is missing"),
        ("catalogue: 2\nas_of: 2026-11-01", "mine.yaml:1 catalogue: should be 1, not 2; a newer Gemstead"),
        ("catalogue: 1\nas_of: today", "mine.yaml:2 as_of: should be a day such as 2026-11-20, not `today`"),
        (HEAD + "pries: []", "mine.yaml:4 pries: is not a field here; known: catalogue"),
        (HEAD + "rents: []", "did you mean `rent`?"),
        (HEAD + "rent: 3", "mine.yaml:4 rent: should be a list, not 3"),
        (HEAD + "rent:\n  - nonsense", "mine.yaml:5 rent[0]: should be a section with fields of its own"),
        (HEAD + "rent:\n  - {gpu: H1000, usd_hour: 1}", "There is no accelerator `H1000`"),
        (HEAD + "rent:\n  - {gpu: H100}", "mine.yaml:5 rent[0].usd_hour: is missing"),
        (HEAD + "rent:\n  - {gpu: H100, usd_hour: -1}", "rent[0].usd_hour: -1 is too small: at least 0"),
        (HEAD + "rent:\n  - {gpu: H100, usd_hour: cheap}", "should be a number, not `cheap`"),
        (HEAD + "rent:\n  - {gpu: H100, usd_hour: .nan}", "should be a number"),
        (HEAD + "rent:\n  - {gpu: H100, usd_hour: 5504}", "is it a whole machine's?"),
        (HEAD + "rent:\n  - {gpu: H100, usd_hour: true}", "should be a number, not true"),
        (
            HEAD + "rent:\n  - gpu: H100\n    usd_hour: 1\n    kind: spt",
            "mine.yaml:7 rent[0].kind: should be one of",
        ),
        (HEAD + "api:\n  - {provider: x, model: 27B, in: 1, out: 1}", "There is no Gemma 4 27B"),
        (HEAD + "accelerators:\n  - {id: zz}", "needs vendor, memory_mib, bandwidth_gbs; or `like: ID`"),
        (HEAD + "accelerators:\n  - {id: zz, like: nothing}", "There is no accelerator `nothing`"),
        (
            HEAD + "accelerators:\n  - {id: l4, mig: {small: 2}}",
            "`small` is no MIG profile: write it like 1g.24gb",
        ),
        (HEAD + "accelerators:\n  - {id: l4, tflops: {bf17: 2}}", "did you mean `bf16`?"),
        (HEAD + "checkpoints:\n  - {repo: a/b}", "needs model, format, bits, weights_gib, engines"),
        (HEAD + "engines:\n  - {engine: vlm}", "did you mean `vllm`?"),
        (
            HEAD
            + "known_bad:\n  - {id: a, engine: b, symptom: c, remedy: d, severity: stops, versions: '0.3'}",
            "`0.3` is no bound of versions",
        ),
        (
            HEAD + "known_bad:\n  - {id: a, engine: b, symptom: c, remedy: d, severity: bad}",
            "should be one of unsafe, stops, wrong, slow, note",
        ),
        (HEAD + "ignore: [vllm-attention-backnd]", "did you mean `vllm-attention-backend`?"),
        (HEAD + "rent: [", "is not YAML here"),
        (HEAD + "source: again", "is given twice, first in line 3"),
    ],
)
def test_a_fault_is_said_with_its_line_and_what_to_do(text: str, fault: str) -> None:
    assert any(fault in line for line in faults(text)), faults(text)


def test_all_faults_are_said_at_once_in_the_order_of_the_file() -> None:
    said = faults(
        "catalogue: 1\nas_of: soon\nrent:\n  - {gpu: H100, usd_hour: -1}\n  - {gpu: H100}\nignore: [none-such-entry]\n"
    )
    assert [line.partition(" ")[0] for line in said] == [
        "mine.yaml:2",
        "mine.yaml:4",
        "mine.yaml:5",
        "mine.yaml:6",
    ]


def test_nothing_after_a_colon_is_not_said() -> None:
    assert parse(HEAD + "rent:\napi:\n").counts == {}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["gpu", "usd_hour", "id", "model", "engine", "like"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(
        ["rent", "buy", "api", "accelerators", "checkpoints", "engines", "known_bad", "ignore", "source"]
    ),
    values,
)
def test_whatever_stands_there_is_taken_or_refused_with_a_line(section: str, value: object) -> None:
    import json

    try:
        overlay = parse(f"catalogue: 1\nas_of: 2026-11-01\n{section}: {json.dumps(value)}\n", "mine.yaml")
    except SpecError as error:
        assert all(line.startswith("mine.yaml:") for line in str(error).splitlines())
    else:
        assert isinstance(overlay, Overlay)
        overlaid(built_in(), overlay)
