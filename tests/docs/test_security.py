"""The page on security names tests; they exist, and every letter of STRIDE has some."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parents[2]
ROWS = [
    line.strip("|").split("|")
    for line in (HERE / "docs" / "security.md").read_text("utf-8").splitlines()
    if re.match(r"\| [STRIDE] \|", line)
]


def test_every_threat_names_a_test_that_exists():
    for _, threat, done, test in ROWS:
        assert threat.strip() and done.strip()
        file, _, name = test.strip(" `").partition("::")
        assert f"def {name}(" in (HERE / file).read_text("utf-8"), test


def test_every_kind_of_threat_is_thought_of():
    assert {row[0].strip() for row in ROWS} == set("STRIDE")
