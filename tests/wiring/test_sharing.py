from __future__ import annotations

import pytest

from gemstead.gateway.settings import GatewaySettings, Sharing
from gemstead.spec.sharing import SharingSpec
from gemstead.wiring.secrets import CannotRun
from gemstead.wiring.sharing import sharing
from gemstead.wiring.wanted import Wanted, needs_restart

SPEC = SharingSpec(store="env:URL", secret="env:SECRET")
GOOD = {"URL": "valkey://cache:6379/0", "SECRET": "s" * 32}


def test_what_the_file_says_is_resolved_and_kept_out_of_sight():
    found = sharing(SPEC, GOOD, None)
    assert found == Sharing(store="valkey://cache:6379/0", secret="s" * 32, heads_kib_s=64)
    assert "cache" not in repr(found)
    assert sharing(None, {}, None) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"URL": "postgresql://x/y"}, "write redis://"),
        ({"SECRET": "short"}, "has 5 characters, and needs 32"),
        ({"SECRET": ""}, "traffic.sharing.secret"),
    ],
)
def test_a_reference_that_leads_nowhere_good_says_what_to_do(changed, said):
    with pytest.raises(CannotRun, match=said):
        sharing(SPEC, GOOD | changed, None)


def test_it_begins_and_ends_with_the_service():
    before = Wanted(GatewaySettings(), ())
    after = Wanted(GatewaySettings(sharing=sharing(SPEC, GOOD, None)), ())
    assert "traffic.sharing" in needs_restart(before, after)[0]
    assert needs_restart(after, after) == []
