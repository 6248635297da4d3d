"""Bundles: paths that stay inside, and what separates two of them."""

from __future__ import annotations

import pytest

from gemstead.render.bundle import Bundle, diff


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../b", "a\\b"])
def test_a_path_stays_inside(path: str) -> None:
    with pytest.raises(ValueError, match="stays inside"):
        Bundle("compose", {path: "x\n"})


def test_files_are_in_the_order_of_their_paths() -> None:
    assert list(Bundle("compose", {"b": "\n", "a": "\n"}).files) == ["a", "b"]


def test_what_separates_two_bundles() -> None:
    changes = diff(
        {"same": "1\n", "gone": "2\n", "other": "3\n"}, {"same": "1\n", "new": "4\n", "other": "5\n"}
    )
    assert [(one.path, one.kind) for one in changes] == [
        ("gone", "removed"),
        ("new", "added"),
        ("other", "changed"),
    ]
    assert "-3\n+5\n" in changes[2].text
    assert "--- a/gone\n+++ /dev/null" in changes[0].text
