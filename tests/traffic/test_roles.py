"""Who may do what: every act has a rule, and duties are kept apart."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.cli.main import main
from gemstead.cli.rolespage import markdown, verbs_of_all, words_of
from gemstead.console.app import console
from gemstead.console.door import Door
from gemstead.console.signin import Pages
from gemstead.gateway import passage
from gemstead.gateway.app import OWN
from gemstead.openai.requests import ROUTES
from gemstead.spec import identity as spec
from gemstead.spec.model import Spec
from gemstead.traffic.roles import (
    ADMIN_RULES,
    GATEWAY_RULES,
    RIGHTS,
    ROLES,
    VERB_RULES,
    Roles,
    admin_right,
    gateway_right,
    verb_right,
)
from gemstead.wiring.files import StateDir
from gemstead.wiring.limitpages import limit_routes
from gemstead.wiring.policy import Policy
from gemstead.wiring.policy import pages as policy_pages


def test_every_route_of_the_gateway_has_a_rule():
    for path in (
        *ROUTES,
        *OWN,
        *passage.ROUTES,
        "/v1/models/x/y",
        "/v1/files/file-1/content",
        "/v1/batches/b/cancel",
    ):
        assert gateway_right(path) is not None, f"{path} has no rule in traffic/roles.py: who may ask for it?"


def admin_routes():
    door = Door("t", time.time)
    pages = [
        *Pages(door, None, time.time).routes(),
        *policy_pages(Policy(StateDir(Path("x"), Path("x")), Spec, None, None, None, {}), door),
        *limit_routes(None),
    ]
    for route in console(None, "t", door, pages).routes:
        for method in sorted(route.methods):
            yield method, route.path


def test_every_route_of_the_admin_port_has_a_rule():
    for method, path in admin_routes():
        assert admin_right(method, path) is not None, f"{method} {path} has no rule in traffic/roles.py"


def test_no_rule_of_the_admin_port_is_of_a_route_that_is_not_there():
    there = {f"{method} {path}" for method, path in admin_routes()}
    assert set(ADMIN_RULES) <= there


def test_every_verb_has_a_rule():
    for words in verbs_of_all():
        assert verb_right(words.split()) is not None, f"`gemstead {words}` has no rule in traffic/roles.py"


def test_what_has_no_rule_is_nobodys():
    assert gateway_right("/v2/chat") is None
    assert gateway_right("/v1") is None
    assert admin_right("PUT", "/admin/status") is None
    assert verb_right(["fly", "away"]) is None


def test_the_page_is_the_generated_one():
    page = Path(__file__).parents[2] / "docs" / "reference" / "roles.md"
    assert page.read_text("utf-8") == markdown(), "run: gemstead roles --markdown > docs/reference/roles.md"


def test_the_file_knows_the_same_rights_and_roles():
    assert set(get_args(spec.Right)) == set(RIGHTS)
    assert tuple(ROLES) == spec.ROLES


def test_every_right_is_asked_for_somewhere():
    asked = {*GATEWAY_RULES.values(), *ADMIN_RULES.values(), *VERB_RULES.values()}
    assert set(RIGHTS) <= asked


@pytest.mark.parametrize(
    ("role", "never"),
    [
        ("auditor", {"inference", "batch", "keys.manage", "keys.own", "config.apply", "fleet.operate", "service.run",
                     "secrets.check", "tokens.revoke", "identity.manage", "audit.manage", "store.manage"}),
        ("operator", {"inference", "batch", "usage.all", "audit.read", "audit.manage", "keys.list", "keys.manage",
                      "tokens.revoke", "identity.manage"}),
        ("developer", {"usage.all", "audit.read", "keys.list", "keys.manage", "status.read", "config.apply",
                       "fleet.operate"}),
        ("viewer", set(RIGHTS) - {"models.list", "status.read", "metrics.read"}),
        ("service", set(RIGHTS) - {"inference", "models.list", "batch", "usage.own"}),
    ],
)  # fmt: skip
def test_duties_are_kept_apart(role, never):
    assert not ROLES[role] & never


def test_only_an_admin_gives_rights_away():
    giving = ("keys.manage", "tokens.revoke", "identity.manage", "audit.manage")
    assert {name for name, rights in ROLES.items() for right in giving if right in rights} == {"admin"}


names = st.sampled_from([*ROLES, "mine", "lead", "nothing"])


@given(st.lists(names, max_size=4), st.lists(names, max_size=4))
def test_more_roles_never_let_one_do_less(some, more):
    roles = Roles({"mine": (("viewer",), ("usage.all",)), "lead": (("mine",), ())})
    assert roles.rights(tuple(some)) <= roles.rights((*some, *more))


def test_roles_of_the_file_hold_what_they_say():
    roles = Roles(
        {"lead": (("developer",), ("usage.all",)), "above": (("lead",), ("audit.read", "no-such-right"))}
    )
    assert roles.rights(("lead",)) == ROLES["developer"] | {"usage.all"}
    assert roles.rights(("above",)) == ROLES["developer"] | {"usage.all", "audit.read"}
    assert roles.rights(("unknown",)) == frozenset()
    assert roles.only_known(["x", "lead", "viewer", "lead"]) == ("lead", "viewer")


def test_the_words_that_were_typed_are_known():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb")
    acts = verbs.add_parser("keys").add_subparsers(dest="act")
    acts.add_parser("list")
    assert words_of(parser, parser.parse_args(["keys", "list"])) == ["keys", "list"]


@pytest.mark.parametrize(
    ("held", "words", "code"),
    [
        ("auditor", ["keys", "list"], 0),
        ("auditor", ["keys", "create"], 1),
        ("operator", ["usage"], 1),
        ("operator", ["keys", "list"], 1),
        ("viewer,auditor", ["deny", "list"], 0),
        ("", ["keys", "list"], 1),
        ("emperor", ["version"], 0),
        ("emperor", ["keys", "list"], 2),
    ],
)
def test_the_command_line_is_held_to_roles(held, words, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEMSTEAD_ROLES", held)
    monkeypatch.chdir(tmp_path)
    at = ["--set", f"state_dir={tmp_path}"] if words[0] != "version" else []
    assert main([*words, *at]) == code
    if code:
        assert "role" in capsys.readouterr().err
