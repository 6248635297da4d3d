from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.secrets import secret_at


def test_a_secret_is_made_once_and_kept(tmp_path):
    path = tmp_path / "state" / "pepper"
    first = secret_at(path)
    assert len(first) == 32
    assert secret_at(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["pepper"]
    assert secret_at(tmp_path / "hash.key") != first


def test_whoever_comes_first_all_read_the_same(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(secret_at, [tmp_path / "pepper"] * 64))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["pepper"]


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "00" * 31, "00" * 33, "é" * 64])
def test_a_spoilt_file_is_refused_and_not_replaced(tmp_path, text):
    path = tmp_path / "pepper"
    path.write_text(text)
    with pytest.raises(LedgerTrouble, match="restore it from a backup"):
        secret_at(path)
    assert path.read_text() == text


def test_a_folder_that_cannot_be_used_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerTrouble, match="pepper"):
        secret_at(tmp_path / "file" / "pepper")
