"""The `identity` section: what is refused, and that the page's examples are good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemstead.spec.fault import SpecError
from gemstead.spec.load import load

PAGE = Path(__file__).parents[2] / "docs" / "identity.md"
ISSUER = "identity:\n  issuers:\n    - {name: a, issuer: 'https://a.example', audience: [g]%s}\n"
SECOND = "    - {name: b, issuer: 'https://a.example', audience: [h]}\n"


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
def test_the_examples_of_the_page_are_good(block):
    load(block)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ISSUER % ", claims: {user: 'sub ||'}", "JMESPath"),
        (ISSUER % ", default_roles: [boss]", "no role"),
        (ISSUER % ", grants: [{group: g, role: boss}]", "no role"),
        (ISSUER % ", algorithms: [HS256]", "algorithms"),
        (ISSUER % ", algorithms: [none]", "algorithms"),
        (ISSUER % ", algorithms: []", "algorithms"),
        (ISSUER % ", jwks_url: 'http://a.example/keys'", "jwks_url"),
        (ISSUER % ", leeway_s: 61", "leeway_s"),
        (ISSUER % ", login: {client_id: c, client_secret: hunter2}", "client_secret"),
        ((ISSUER % "").replace("https", "http"), "jwks_url or jwks_file"),
        ((ISSUER % "").replace("[g]", "[]"), "audience"),
        (ISSUER % "" + SECOND.replace("b,", "a,"), "names must differ"),
        ("identity:\n  roles: [{name: admin}]\n", "exists already"),
        ("identity:\n  roles: [{name: lead, extends: [nobody]}]\n", "no role"),
        ("identity:\n  roles: [{name: lead, allow: [everything]}]\n", "allow"),
        ("identity:\n  certificates: [{name: m, when: '(('}]\n", "JMESPath"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(SpecError) as caught:
        load(text)
    assert words in str(caught.value)


def test_one_issuer_may_stand_there_with_several_audiences():
    spec = load(ISSUER % "" + SECOND)
    assert [one.name for one in getattr(spec, "spec", spec).identity.issuers] == ["a", "b"]
