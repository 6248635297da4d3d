"""`gemstead db` with a store: its form, forward and back, and taking over what a gateway had by itself."""

from __future__ import annotations

import json
import time

import pytest

from gemstead.cli.main import main
from gemstead.cli.options import read
from gemstead.ledger.keys import KeyBook
from gemstead.ledger.secrets import secret_at
from gemstead.refused import Refused
from gemstead.wiring.files import state_dir
from gemstead.wiring.ledger import prepare


@pytest.fixture
def said(tmp_path, empty_url, capsys):
    """What a verb prints, with a file that names the store."""
    for name, text in (("url", empty_url), ("secret", "s" * 40)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "gemstead.yaml"
    ports = "{listen: '127.0.0.1:0'}"
    alone = f"state_dir: {tmp_path}/state\ngateway: {ports}\nadmin: {ports}\n"
    store = f"{alone}ledger: {{store: 'file:{tmp_path}/url', secret: 'file:{tmp_path}/secret', node: n1}}\n"

    def run(*words: str, shared: bool = True, code: int = 0) -> str:
        file.write_text(store if shared else alone)
        capsys.readouterr()
        assert main([*words, "--config", str(file)]) == code
        printed = capsys.readouterr()
        return printed.out + (printed.err if code else "")

    return run


def test_a_store_is_made_shown_and_moved(said):
    assert "missing" in said("db", "status")
    assert "(audit): schema 0 to 4" in said("db", "upgrade")
    assert said("db", "upgrade") == "nothing to do: all is as this Gemstead writes it\n"
    assert "audit_4" in said("db", "current")
    assert "--yes" in said("db", "downgrade", "audit_3", code=1)
    assert "audit_4 to audit_3" in said("db", "downgrade", "audit_3", "--yes")
    assert "older" in said("db", "status", code=1)
    assert "schema 3 to 4" in said("db", "upgrade")
    rows = json.loads(said("db", "status", "--json"))
    assert [row["state"] for row in rows[-3:]] == ["current"] * 3
    assert "there is no step" in said("db", "downgrade", "audit_99", code=1)


def test_a_file_is_moved_back_after_a_copy(said, tmp_path):
    said("keys", "create", shared=False)
    assert "--yes" in said("db", "downgrade", "keys_2", shared=False, code=1)
    assert "keys_3 to keys_2; as it was: " in said("db", "downgrade", "keys_2", "--yes", shared=False)
    assert "keys_2" in said("db", "current", shared=False)
    assert len(json.loads(said("keys", "list", "--json", shared=False))) == 1
    assert len(list((tmp_path / "state").glob("keys.db.schema3-*"))) == 1


def test_what_a_gateway_had_is_taken_into_an_empty_store(said, tmp_path):
    made = [json.loads(said("keys", "create", "--json", shared=False)) for _ in range(2)]
    said("keys", "revoke", made[1]["key_id"], shared=False)
    said("audit", "checkpoint", shared=False)
    public = said("audit", "key", shared=False)
    assert "2 keys, 0 denials and 4 audit records" in said("db", "import")
    assert "only an empty store" in said("db", "import", code=1)
    assert said("audit", "key") == public
    verified = json.loads(said("audit", "verify", "--json"))
    assert verified["fault"] is None
    states = {key["key_id"]: key["state"] for key in json.loads(said("keys", "list", "--json"))}
    assert states == {made[0]["key_id"]: "active", made[1]["key_id"]: "revoked"}
    # A gateway that has never been here knows the key by its hash, and refuses the other.
    folder = state_dir(read(tmp_path / "gemstead.yaml", [f"state_dir={tmp_path}/elsewhere"]), {})
    assert prepare(folder) == ""
    book = KeyBook(folder.keys, secret_at(folder.pepper))
    now = time.time()
    assert book.find(made[0]["key"].encode(), now).key_id == made[0]["key_id"]
    with pytest.raises(Refused, match="revoked"):
        book.find(made[1]["key"].encode(), now)
    book.close()


def test_a_store_that_is_away_or_refuses_is_told_in_one_sentence(said, tmp_path):
    (tmp_path / "url").write_text("postgresql://u:hush@127.0.0.1:1/db")
    for words in (("keys", "list"), ("audit", "verify"), ("db", "status"), ("usage",), ("serve",)):
        told = said(*words, code=1)
        assert "cannot be reached (Connection refused): see that it runs" in told
        assert "mistake in Gemstead" not in told and "hush" not in told
    told = said("db", "downgrade", "audit_99", code=1)
    assert "there is no step" in told and "mistake" not in told
