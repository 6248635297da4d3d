"""docs/admin-api.md names every route of the admin API, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from gemstead.cli.rolespage import verbs_of_all
from gemstead.traffic.roles import ADMIN_RULES

PAGE = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text("utf-8")


def test_every_route_is_on_the_page_and_no_other():
    routes = {rule.replace(":path", "") for rule in ADMIN_RULES if " /admin/" in rule}
    assert set(re.findall(r"`((?:GET|POST|PUT|DELETE) /admin/[^`\s]*)`", PAGE)) == routes


def test_every_verb_on_the_page_is_one():
    verbs = {" ".join(words.split()[:n]) for words in verbs_of_all() for n in (1, 2, 3)}
    table = [line.split("|")[3] for line in PAGE.splitlines() if line.startswith("| ")]
    named = {verb for cell in table for verb in re.findall(r"`([a-z -]+)`", cell)}
    assert named <= verbs and len(named) > 20
