"""Every route of the admin port by every role, and by every right alone: who may, may; nobody else gets in.

Made from the table of rules, asked of the real port. What a route says to somebody who may ask is its own affair.
"""

from __future__ import annotations

import asyncio
import re

import httpx2
import pytest
from admin_port import ROLES, Port

from gemstead.traffic.roles import ADMIN_RULES, OPEN, RIGHTS, Roles

ALONE = [{"name": f"only-{right.replace('.', '-')}", "allow": (right,)} for right in RIGHTS]
PORT = Port(roles=ALONE)
HELD = Roles({one["name"]: ((), one["allow"]) for one in ALONE})
SLOW = ("/admin/audit/verify", "/admin/audit/export")  # a process each


def asked(secret, rules):
    """What each of these routes answers, by rule."""
    headers = {"sec-fetch-site": "same-origin"} | ({"authorization": f"Bearer {secret}"} if secret else {})

    async def all_of():
        transport = httpx2.ASGITransport(PORT.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as http:
            found = {}
            for rule in rules:
                method, path = rule.split(" ")
                found[rule] = await http.request(method, re.sub(r"\{[^}]+\}", "x", path))
            return found

    return asyncio.run(all_of())


def let_in(answer):
    """Whether the door let somebody in; what happens behind it does not matter here."""
    assert answer.status_code < 500 or answer.status_code == 503
    if answer.status_code in (401, 403):
        assert answer.json()["error"]
    return not (answer.status_code == 403 and "do not let you do this" in answer.text)


RULES = {rule: right for rule, right in ADMIN_RULES.items() if rule != "GET /metrics"}  # the file says who


@pytest.mark.parametrize("role", ROLES)
def test_each_role_gets_in_where_its_rights_let_it_and_nowhere_else(role):
    rights = HELD.rights((role,))
    for rule, answer in asked(PORT.secrets[role], RULES).items():
        assert let_in(answer) == (RULES[rule] == OPEN or RULES[rule] in rights), (role, rule, answer.text)


@pytest.mark.parametrize("right", RIGHTS)
def test_each_right_opens_its_routes_and_no_other(right):
    secret = PORT.secret(f"only-{right.replace('.', '-')}")
    rules = [rule for rule in RULES if not rule.endswith(SLOW) or RULES[rule] == right]
    for rule, answer in asked(secret, rules).items():
        assert let_in(answer) == (RULES[rule] in (OPEN, right)), (right, rule, answer.text)


@pytest.mark.parametrize("secret", ["", "wrong", "gms_" + "A" * 36])
def test_nobody_gets_in_without_being_known(secret):
    closed = [rule for rule, right in RULES.items() if right != OPEN]
    for rule, answer in asked(secret, closed).items():
        assert answer.status_code == 401, (rule, answer.text)


def test_a_role_that_is_none_here_opens_nothing():
    for rule, answer in asked(PORT.secret("emperor"), RULES).items():
        assert let_in(answer) == (RULES[rule] == OPEN), rule


def test_what_is_not_there_is_said_in_the_same_form():
    found = asked(PORT.secrets["admin"], ["GET /admin/nothing", "PATCH /admin/keys", "GET /else"])
    assert [answer.status_code for answer in found.values()] == [404, 405, 404]
    assert all(answer.json()["error"] for answer in found.values())
