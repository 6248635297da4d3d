"""What logs taught survives a restart, and a damaged file is never taken for an empty one."""

from __future__ import annotations

import pytest

from gemstead.operate import calibration
from gemstead.plan.from_log import Correction
from gemstead.refused import Refused

ONE = Correction("vllm", "l40s", 12_345, "RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic", 26_000_000_000)


def test_what_is_remembered_is_loaded(tmp_path):
    assert calibration.load(tmp_path) == ()
    calibration.remember(tmp_path / "deep" / "state", ONE)
    assert calibration.load(tmp_path / "deep" / "state") == (ONE,)


def test_only_the_last_of_each_engine_and_card_are_kept(tmp_path):
    other = Correction("vllm", "h100-sxm", 7)
    calibration.remember(tmp_path, other)
    for size in range(calibration.MOST + 3):
        calibration.remember(tmp_path, Correction("vllm", "l40s", size))
    kept = calibration.load(tmp_path)
    assert other in kept
    assert [one.overhead_bytes for one in kept if one.accelerator == "l40s"] == list(
        range(3, calibration.MOST + 3)
    )


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 2, "corrections": []}', '{"version": 1}',
     '{"version": 1, "corrections": [{"engine": "vllm"}]}',
     '{"version": 1, "corrections": [{"engine": "vllm", "accelerator": "l4", "overhead_bytes": "much"}]}',
     '{"version": 1, "corrections": [{"engine": "vllm", "accelerator": "l4", "overhead_bytes": 1, "odd": 2}]}'],
)  # fmt: skip
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, text):
    path = tmp_path / calibration.FILE
    path.write_text(text)
    with pytest.raises(Refused, match=r"calibration\.json"):
        calibration.load(tmp_path)
    with pytest.raises(Refused):
        calibration.remember(tmp_path, ONE)
    assert path.read_text() == text


def test_nothing_half_written_is_left_behind(tmp_path):
    calibration.remember(tmp_path, ONE)
    calibration.remember(tmp_path, ONE)
    assert [path.name for path in tmp_path.iterdir()] == [calibration.FILE]


def test_it_can_be_forgotten(tmp_path):
    calibration.remember(tmp_path, ONE)
    assert calibration.forget(tmp_path)
    assert not calibration.forget(tmp_path)
    assert calibration.load(tmp_path) == ()
