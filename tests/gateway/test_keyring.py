from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.gateway.keyring import Keyring
from gemstead.ledger.keys import Grant, KeyBook, open_keys
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import ANYONE

NOW = 1_800_000_000.0
PEPPER = b"p" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "keys.db"
    minted = open_keys(path, PEPPER).create(Grant(tenant="acme"), now=NOW)
    return Keyring(KeyBook(path, PEPPER)), minted.secret.encode(), minted.key.key_id


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (b"Bearer %s", None),
        (b"bearer %s", None),
        (b"BEARER   %s  ", None),
        (b"Bearer\t%s", None),
        (b"  Bearer %s", None),
        (None, b"%s"),
        (None, b" %s "),
        (b"Bearer %s", b"%s"),
    ],
)
def test_a_key_is_found_however_it_is_sent(made, authorization, x_api_key):
    ring, secret, key_id = made
    authorization, x_api_key = (text and text.replace(b"%s", secret) for text in (authorization, x_api_key))
    caller = ring.identify(authorization, x_api_key, NOW)
    assert (caller.key_id, caller.tenant) == (key_id, "acme")


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "words"),
    [
        (None, None, "no API key was given"),
        (b"", None, "no API key was given"),
        (b"Bearer", None, "no API key was given"),
        (b"Bearer ", None, "no API key was given"),
        (None, b"", "no API key was given"),
        (b"Basic dXNlcjpwYXNz", None, "not `Bearer <key>`"),
        (b"%s", None, "not `Bearer <key>`"),
        (b"Bearer Bearer %s", None, "start with `gms_`"),
        (b"Bearer %s", b"other", "different keys"),
        (b"Bearer other", b"%s", "different keys"),
        (b"Basic dXNlcjpwYXNz", b"%s", "not `Bearer <key>`"),
    ],
)
def test_what_is_wrong_is_said(made, authorization, x_api_key, words):
    ring, secret, _ = made
    authorization, x_api_key = (text and text.replace(b"%s", secret) for text in (authorization, x_api_key))
    with pytest.raises(Refused) as caught:
        ring.identify(authorization, x_api_key, NOW)
    assert caught.value.reason is Reason.UNAUTHENTICATED
    assert words in caught.value.message
    assert secret.decode() not in caught.value.message


def test_with_keys_off_anyone_may_call():
    assert Keyring(None).identify(b"Bearer whatever", b"else", NOW) is ANYONE
    assert Keyring(None).identify(None, None, NOW) is ANYONE


@given(st.none() | st.binary(max_size=60), st.none() | st.binary(max_size=60))
def test_noise_is_refused_and_never_breaks(made, authorization, x_api_key):
    ring, _, _ = made
    with pytest.raises(Refused):
        ring.identify(authorization, x_api_key, NOW)
