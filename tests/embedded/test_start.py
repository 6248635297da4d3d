"""What is checked before the engine is loaded, what is set on it, and who stands in while it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xllamacpp

from gemstead.embedded.faults import CannotStart, check_cpu
from gemstead.embedded.options import Options, parse
from gemstead.embedded.parameters import FieldGone, fill


@pytest.mark.parametrize(
    ("arch", "flags", "runs"),
    [
        ("x86_64", {"sse4_2", "avx", "avx2", "fma"}, True),
        ("x86_64", {"sse4_2", "avx"}, False),
        ("AMD64", {"avx2"}, False),
        ("x86_64", set(), True),
        ("aarch64", {"asimd"}, True),
    ],
)
def test_a_cpu_without_avx2_is_told_instead_of_a_crash(arch: str, flags: set[str], runs: bool) -> None:
    if runs:
        check_cpu(arch, flags)
        return
    with pytest.raises(CannotStart, match="AVX2"):
        check_cpu(arch, flags)


def test_every_default_that_bites_is_set() -> None:
    params = xllamacpp.CommonParams()
    fill(params, Options("m.gguf", context=1024, slots=3, threads=2), "key", xllamacpp)
    assert (params.n_ctx, params.n_parallel, params.kv_unified, params.ctx_shift) == (3072, 3, False, False)
    assert (params.endpoint_metrics, params.endpoint_slots, params.ui) == (True, True, False)
    assert (params.enable_reasoning, params.offline, params.cors_origins) == (0, True, "")
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (2, 2)
    assert params.cache_ram_mib == 256 and list(params.api_keys) == ["key"]


def test_a_parameter_that_is_gone_is_an_error_and_not_a_default() -> None:
    class Older:
        model = mmproj = cpuparams = cpuparams_batch = type("Part", (), {"path": "", "n_threads": 1})()

    with pytest.raises(FieldGone, match=r"Older\.hostnames"):
        fill(Older(), Options("m.gguf"), "", xllamacpp)


def test_the_command_line_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--model", "m", "--thinking", "on"]) == Options("m", thinking=True)
    for wrong in (["--model", "m", "--slots", "0"], ["--model", "m", "--contxt", "5"], []):
        with pytest.raises(SystemExit) as left:
            parse(wrong)
        assert left.value.code == 2
    assert "within 1 to 256" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_while_a_large_model_loads_its_share_is_shown_and_nothing_is_lost(tmp_path: Path) -> None:
    model = tmp_path / "large.gguf"
    with model.open("wb") as file:
        os.truncate(file.fileno(), 400 << 20)
    script = (
        "import os, sys, time\n"
        "from gemstead.embedded.witness import Witness\n"
        "witness = Witness(sys.argv[1])\n"
        "os.write(2, b'first words\\n')\n"
        "held = bytearray(100 << 20)\n"  # about a quarter of the file, as if that much were loaded
        "held[::4096] = b'x' * len(held[::4096])\n"
        "time.sleep(1.3)\n"
        "os.write(2, b'last words\\n')\n"
        "said = witness.dismiss()\n"
        "print(said)\n"
        "os.write(2, b'afterwards\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model)], capture_output=True, text=True, timeout=20
    )
    assert done.stdout.split("\n")[:2] == ["first words", "last words"]
    lines = done.stderr.splitlines()
    assert (lines[0], lines[-2], lines[-1]) == ("first words", "last words", "afterwards")
    shares = [int(line.split()[2]) for line in lines if line.startswith("gemstead: loading ")]
    assert shares and 20 <= shares[-1] <= 60
