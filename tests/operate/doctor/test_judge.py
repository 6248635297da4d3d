"""Judgement: values in, findings out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemstead.catalog.catalogue import built_in, overlaid
from gemstead.catalog.overlay import parse
from gemstead.operate.doctor import read
from gemstead.operate.doctor.finding import LEVELS, worst
from gemstead.operate.doctor.judge import judge
from gemstead.operate.doctor.seen import (
    Certificate,
    Disk,
    Engine,
    Gpus,
    Hub,
    Port,
    Runtime,
    Seen,
    Xid,
)

MACHINES = Path(__file__).parents[2] / "data" / "machines"
GIB = 1 << 30
DAY = 86_400.0
BARE = Seen(
    now=1e9, os="linux", arch="x86_64", cpus=16, memory=64 * GIB, memory_free=60 * GIB, shared_memory=32 * GIB
)


def cards(name: str) -> Gpus:
    gpus = read.nvidia((MACHINES / name).read_text("utf-8"))
    assert gpus is not None
    return gpus


WELL = replace(BARE, gpus=(cards("nvidia-smi-two-rtx-pro-6000.xml"),), xids=())
ILL = replace(BARE, gpus=(cards("nvidia-smi-ill.xml"),), xids=())


def found(seen: Seen, topic: str) -> list[tuple[str, str]]:
    return [(one.level, one.cause) for one in judge(seen) if one.topic == topic]


def level(seen: Seen, topic: str) -> str:
    return worst([one for one in judge(seen) if one.topic == topic])


def test_a_well_machine_has_no_problem_and_no_warning():
    assert worst(judge(WELL)) == "unknown"  # nobody asked the clock
    assert worst(judge(replace(WELL, clock_synchronised=True))) in ("note", "ok")


def test_every_finding_that_is_not_well_has_evidence_and_a_remedy():
    seen = replace(
        ILL,
        ports=(Port("127.0.0.1:4367", False, said="Address already in use"),),
        disk=Disk("/models", GIB, "nfs4", 1e8),
        needs=9 * GIB,
        shared_memory=64 << 20,
        hub=Hub("https://hub.example", True, resolves=False, said="no such name"),
        clock_synchronised=False,
        certificates=(Certificate("a.pem", 1e9 - 3 * DAY),),
        engines=(Engine("vllm", "0.18.0", "/opt/vllm"),),
        xids=(Xid(79, "0000:19:00.0", "NVRM: Xid 79"),),
        runtimes=(Runtime("docker", True, False),),
    )
    for one in judge(seen):
        assert one.level in LEVELS and one.cause
        if one.level in ("problem", "warning"):
            assert one.evidence and one.remedy, one
    levels = [LEVELS.index(one.level) for one in judge(seen)]
    assert levels == sorted(levels)


def test_ill_cards_are_told_one_by_one():
    findings = judge(ILL)
    said = {one.topic: one for one in findings if one.level == "problem"}
    assert "card 0" in said["heat"].cause and "91 °C" in said["heat"].evidence
    assert any("card 1" in one.cause and "2 since" in one.evidence for one in findings if one.topic == "ecc")
    assert any(
        "card 3" in one.cause and one.remedy == "replace the card" for one in findings if one.topic == "ecc"
    )
    assert found(ILL, "pcie") == [("warning", "card 1 (NVIDIA H100 80GB HBM3) uses part of its bus")]
    assert found(ILL, "gpu memory")[0][1].startswith("card 2")
    assert ("note", "card 3 (Tesla T4) is cut into slices") in found(ILL, "mig")
    assert level(ILL, "driver") == "warning"  # 535 runs CUDA 12, not 13


def test_a_card_that_gemma_4_cannot_run_on_is_said():
    causes = [
        one.cause for one in judge(ILL) if one.topic == "gpu" and "T4" in one.cause and one.level == "warning"
    ]
    assert causes, "the catalogue's limits of the T4"


def test_an_idle_card_at_pcie_generation_1_is_well():
    assert found(WELL, "pcie") == []


@pytest.mark.parametrize(
    ("driver", "expected"), [("470.1", "problem"), ("535.1", "warning"), ("580.95", "ok")]
)
def test_old_drivers(driver, expected):
    assert level(replace(WELL, gpus=(replace(WELL.gpus[0], driver=driver),)), "driver") == expected


@pytest.mark.parametrize(
    ("code", "expected"), [(31, "note"), (79, "problem"), (48, "problem"), (999, "problem")]
)
def test_errors_of_programs_are_not_errors_of_cards(code, expected):
    assert level(replace(WELL, xids=(Xid(code, "0000:65:00.0", "line"),)), "xid") == expected


def test_errors_that_could_not_be_read_are_unknown_and_not_none():
    assert level(replace(WELL, xids=None), "xid") == "unknown"
    assert found(BARE, "xid") == []


def test_pairs_for_tensor_parallelism_are_named():
    links = read.topology((MACHINES / "nvidia-topo-8-pcie.txt").read_text("utf-8"))
    (finding,) = [one for one in judge(replace(WELL, topology=links)) if one.topic == "topology"]
    assert finding.level == "note" and "0,1" in finding.remedy and "3,4" not in finding.remedy
    far = (("X", "SYS"), ("SYS", "X"))
    assert level(replace(WELL, topology=far), "topology") == "warning"
    assert level(replace(WELL, topology=(("X", "NV18"), ("NV18", "X"))), "topology") == "ok"


@pytest.mark.parametrize(
    ("gpus", "size", "expected"),
    [
        ((), 64 << 20, "note"),
        (WELL.gpus, 64 << 20, "problem"),
        (WELL.gpus, 8 * GIB, "ok"),
        ((), None, "unknown"),
    ],
)
def test_shared_memory_matters_to_engines_on_cards(gpus, size, expected):
    assert level(replace(BARE, gpus=gpus, shared_memory=size), "shared memory") == expected


@pytest.mark.parametrize(
    ("speed", "kind", "gpus", "expected"),
    [
        (5e9, "ext4", WELL.gpus, "ok"),
        (1e9, "ext4", WELL.gpus, "note"),
        (1e9, "nfs4", WELL.gpus, "warning"),
        (1e8, "ext4", WELL.gpus, "warning"),
        (1e8, "ext4", (), "note"),
    ],
)
def test_disk_speed(speed, kind, gpus, expected):
    assert level(replace(BARE, gpus=gpus, disk=Disk("/m", 99 * GIB, kind, speed)), "disk speed") == expected


def test_models_that_do_not_fit_the_disk_are_a_problem():
    assert level(replace(BARE, disk=Disk("/m", 20 * GIB), needs=30 * GIB), "disk") == "problem"
    assert level(replace(BARE, disk=Disk("/m", 40 * GIB), needs=30 * GIB), "disk") == "ok"


@pytest.mark.parametrize(("days", "expected"), [(-1, "problem"), (12, "warning"), (90, "ok")])
def test_certificates_near_their_end(days, expected):
    seen = replace(BARE, certificates=(Certificate("a.pem", 1e9 + days * DAY),))
    assert level(seen, "certificate") == expected
    assert (
        level(replace(BARE, certificates=(Certificate("a.pem", None, "no such file"),)), "certificate")
        == "problem"
    )


@pytest.mark.parametrize(("off", "expected"), [(2, "ok"), (-90, "warning"), (4000, "problem")])
def test_the_clock_is_held_against_the_hubs(off, expected):
    hub = Hub("https://hub.example", True, True, 200, date=1e9, asked_at=1e9 + off, seconds=0.2)
    assert level(replace(BARE, hub=hub), "clock") == expected


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (Engine("vllm", "0.18.0", "x"), "problem"),
        (Engine("vllm", "0.20.2", "x"), "warning"),
        (Engine("vllm", "0.27.0", "x"), "ok"),
        (Engine("sglang", "0.5.23", "x"), "ok"),
        (Engine("sglang", "0.5.10", "x"), "problem"),
        (Engine("tgi", "3.3.0", "x"), "warning"),
    ],
)
def test_engines_are_held_against_the_catalogue(engine, expected):
    assert level(replace(BARE, engines=(engine,)), "engine") == expected


def test_a_port_of_our_own_service_is_well():
    assert level(replace(BARE, ports=(Port("a:1", False, ours=True),)), "port") == "ok"
    assert level(replace(BARE, ports=(Port("a:1", False, said="in use"),)), "port") == "problem"


def test_a_hub_that_is_not_wanted_is_not_missed():
    assert level(replace(BARE, hub=Hub("https://hub.example", False)), "hub") == "note"
    proxied = Hub("https://hub.example", True, resolves=False, status=200, seconds=0.3)
    assert level(replace(BARE, hub=proxied), "hub") == "ok"
    assert level(replace(BARE, hub=replace(proxied, status=401)), "hub") == "warning"


def test_what_the_user_knows_to_be_bad_is_found():
    """The ledger that is asked is the user's own, laid over the built-in one."""
    own = parse(
        "catalogue: 1\nas_of: 2026-11-01\nsource: our tests\nknown_bad:\n"
        '  - {id: ours-1, engine: vllm, versions: "==0.32.0", symptom: hangs on our cards, remedy: use 0.33, '
        "severity: stops}\n"
    )
    seen = replace(WELL, engines=(Engine("vllm", "0.32.0", "pip"),))
    found = [one for one in judge(seen, overlaid(built_in(), own)) if "hangs on our cards" in one.cause]
    assert [one.level for one in found] == ["problem"] and found[0].remedy == "use 0.33"
    assert not [one for one in judge(seen) if "hangs on our cards" in one.cause]
