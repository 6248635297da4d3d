"""What a right break-glass password is good for, and how often it may be tried."""

from __future__ import annotations

import pytest

from gemstead.wiring.password import (
    AFTER_USE_S,
    DAY_S,
    TRIES_WITHIN_S,
    BadPassword,
    Kept,
    PasswordFile,
    Tries,
    judge,
)

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("set_days_ago", "used_s_ago", "lasting"),
    [
        (0, None, True),
        (89, None, True),
        (90, None, False),
        (1, AFTER_USE_S - 1, True),
        (1, AFTER_USE_S, False),
        (90, 1, False),
    ],
)
def test_a_password_is_good_for_one_emergency(set_days_ago, used_s_ago, lasting):
    used = None if used_s_ago is None else NOW - used_s_ago
    assert judge(Kept(hash="", set_at=NOW - set_days_ago * DAY_S, used_at=used), NOW, 90 * DAY_S) is lasting


def test_five_wrong_ones_and_then_one_waits():
    tries = Tries()
    for second in range(5):
        assert tries.wait_s(NOW + second) == 0
        tries.failed(NOW + second)
    assert tries.wait_s(NOW + 5) == TRIES_WITHIN_S - 5
    assert tries.wait_s(NOW + TRIES_WITHIN_S) == 0
    tries.failed(NOW + TRIES_WITHIN_S)
    assert tries.wait_s(NOW + TRIES_WITHIN_S) == 1
    tries.right()
    assert tries.wait_s(NOW + TRIES_WITHIN_S) == 0


def test_a_new_password_begins_with_no_wrong_tries():
    tries = Tries()
    for second in range(5):
        tries.failed(NOW + second)
    assert tries.begin(NOW + 5, since=NOW - 9) == TRIES_WITHIN_S - 5
    assert tries.begin(NOW + 5, since=NOW + 3) == 0


def test_without_a_file_no_password_is_right(tmp_path):
    file = PasswordFile(tmp_path / "p")
    with pytest.raises(BadPassword, match="set-password"):
        file.matches("x" * 20)
    (tmp_path / "p").write_text("{}")
    with pytest.raises(BadPassword):
        file.matches("x" * 20)
    with pytest.raises(BadPassword, match="characters"):
        PasswordFile(tmp_path / "q").set("x" * 14, NOW)
